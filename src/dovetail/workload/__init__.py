"""What a network computes: operations with named loop extents and measured operands, traced from a torch module."""

from dovetail.workload.onnx_reader import read_onnx
from dovetail.workload.operation import Kind, Operand, Operation, Role
from dovetail.workload.sparsity import Sparsity, WeightSparsity, sparsity, weight_sparsity
from dovetail.workload.trace import trace
from dovetail.workload.workload import Summary, Workload

__all__ = [
    "Kind",
    "Operand",
    "Operation",
    "Role",
    "Sparsity",
    "Summary",
    "WeightSparsity",
    "Workload",
    "read_onnx",
    "sparsity",
    "trace",
    "weight_sparsity",
]
