"""Tracing: the operations that a network really executes, found by running it once.

The network runs on real input under a torch dispatch mode, which sees every operator after torch has taken apart the
composite ones: functional calls, attention and a user's own code included. Hooks on the modules tell which module is
running. Views cost nothing and are no operations; nor is what any runtime does once and not at every inference: the
work of a parametrization, and computing with the network's constants alone (casting a weight), unless it is a matrix
product or convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dovetail.errors import DovetailError, ModelError
from dovetail.workload.operation import Kind, Operand, Operation, Role
from dovetail.workload.trace_constants import Constant, Constants, density, parametrized, storage
from dovetail.workload.trace_rules import Call, is_known, work
from dovetail.workload.workload import Workload

NEVER_FOLDED: frozenset[Kind] = frozenset({"conv", "matmul", "attention"})
ONE_OUTPUT: frozenset[Kind] = frozenset({"attention", "pool", "normalisation"})
NOT_READING = frozenset({"fill", "zero", "uniform", "normal", "bernoulli", "empty_like", "zeros_like", "ones_like"})
"""Operators that take a tensor only for its shape or to write into it."""


def trace(model: nn.Module, *inputs: Tensor) -> Workload:
    """The operations that `model` executes on `inputs`, with measured densities.

    Runs the model once, in eval mode and without gradients; it is left as it was found. Counts are for the batch that
    is given. A model and inputs on the meta device are traced without computing or allocating anything; all densities
    are then 1.0. What a quantised ONNX file multiplies as integers (`read_onnx`) is as wide as those.

    Raises:
        ModelError: if the model cannot be run on these inputs.
    """
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(_taken_apart())
        path = stack.enter_context(_module_path(model))
        stack.enter_context(torch.no_grad())
        tracer = _Tracer(Constants(model), path)
        try:
            with tracer:
                model(*inputs)
        except DovetailError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            shapes = " and ".join(str(tuple(value.shape)) for value in inputs)
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"The network does not run on input of shape {shapes}: {reason}") from error
    weights, multiplied = getattr(model, "meta", {}).get("integers", ({}, {}))
    return tracer.workload().with_integers(weights, multiplied)


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that is executed while it is active."""

    def __init__(self, constants: Constants, path: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = constants
        self._path = path
        self._operations: list[Operation] = []
        self._constants: dict[str, Operand] = {}

    def workload(self) -> Workload:
        return Workload(tuple(self._operations), tuple(self._constants.values()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = func.overloadpacket.__name__.strip("_")
        if not is_known(operator, func.tags):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        arguments = _by_name(func, args, kwargs)
        tensors = _tensors(arguments)
        writes = func._schema.is_mutable
        # An operator that writes into its input must have that input measured before.
        reads = self._reads(operator, tensors) if writes else []
        result = func(*args, **kwargs)
        outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.numel())
        if not tensors or not outputs or operator in NOT_READING or (not writes and _are_views(outputs, tensors)):
            return result
        self._note(Call(operator, arguments, outputs, frozenset(func.tags)), tensors, reads)
        return result

    def _note(self, call: Call, tensors: list[tuple[str, Tensor]], reads: list[Operand]) -> None:
        if weight := parametrized(self._path):
            self._known.name(call.outputs, weight)
            return
        found = work(call)
        sources = [self._known.find(tensor) for _, tensor in tensors]
        constants = [source for source in sources if source is not None]
        if len(constants) == len(sources) and found.kind not in NEVER_FOLDED:
            self._known.derive(call.outputs, constants)
            return
        reads = reads or self._reads(call.operator, tensors)
        outputs = call.outputs[:1] if found.kind in ONE_OUTPUT else call.outputs
        for output in outputs:
            self._known.forget(output)
        writes = [Operand("output", "", tuple(each.shape), _bits(each), density(each)) for each in outputs]
        for operand, source in zip(reads, sources, strict=True):
            if source is not None and operand.is_constant:
                self._keep(source, operand.role)
        self._operations.append(
            Operation(
                name=self._path[-1] if self._path else "",
                kind=found.kind,
                extents=found.extents,
                operands=(*reads, *writes),
                macs=found.macs,
                other_ops=found.other_ops,
                operator=found.operator or call.operator,
                attributes=found.attributes,
            )
        )

    def _reads(self, operator: str, tensors: list[tuple[str, Tensor]]) -> list[Operand]:
        operands, trained = [], set()
        for argument, tensor in tensors:
            constant = self._known.find(tensor)
            measure = density if constant is None else self._known.density
            role = _role(operator, argument, constant)
            name = "" if constant is None else constant.name
            operands.append(Operand(role, name, tuple(tensor.shape), _bits(tensor), measure(tensor)))
            if constant is not None and constant.is_parameter:
                trained.add(constant.name)
        return _with_data(operands, trained)

    def _keep(self, constant: Constant, role: Role) -> None:
        """List `constant`, whole, under its name; whoever multiplies with a buffer makes it a weight."""
        known = self._constants.get(constant.name)
        if known is None or (known.role == "buffer" and role != "buffer"):
            whole = constant.tensor
            operand = Operand(role, constant.name, tuple(whole.shape), _bits(whole), self._known.density(whole))
            self._constants[constant.name] = operand


def _role(operator: str, argument: str, constant: Constant | None) -> Role:
    """What an argument is to its operator; a product's or convolution's constants are weights, trained or not."""
    if operator == "convolution" and argument in ("weight", "bias"):
        return "weight" if argument == "weight" else "bias"
    if constant is None:
        return "input"
    if argument == "bias" or (operator in ("addmm", "addmv", "baddbmm", "addbmm") and argument == "self"):
        return "bias"
    if constant.is_parameter or operator in ("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv"):
        return "weight"
    return "buffer"


def _with_data(operands: list[Operand], trained: set[str]) -> list[Operand]:
    """Of two weights that are multiplied with each other, one trained, the other is data: a state to begin with."""
    if [operand.role for operand in operands if operand.role != "bias"] != ["weight", "weight"] or not trained:
        return operands
    return [
        replace(operand, role="input", name="") if operand.role == "weight" and operand.name not in trained else operand
        for operand in operands
    ]


def _by_name(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operator, defaults included, by their names in its schema."""
    schema = func._schema.arguments
    named = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return named | {argument.name: value for argument, value in zip(schema, args, strict=False)} | dict(kwargs)


def _tensors(arguments: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Every nonempty tensor among the arguments, with the name of the argument that it is or is in."""
    named = ((name, leaf) for name, value in arguments.items() for leaf in tree_leaves(value))
    return [(name, leaf) for name, leaf in named if isinstance(leaf, Tensor) and leaf.numel()]


def _are_views(outputs: tuple[Tensor, ...], tensors: list[tuple[str, Tensor]]) -> bool:
    storages = {storage(tensor) for _, tensor in tensors}
    return all(storage(output) in storages for output in outputs)


def _bits(tensor: Tensor) -> int:
    return 8 * tensor.element_size()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _taken_apart() -> Iterator[None]:
    """Without the fused kernels for transformers and recurrent networks, which would hide their products."""
    fast_path, onednn = torch.backends.mha.get_fastpath_enabled(), bool(torch.backends.mkldnn.enabled)
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.mkldnn.enabled = onednn  # type: ignore[assignment]


@contextmanager
def _module_path(model: nn.Module) -> Iterator[list[str]]:
    """The paths of the modules that are running, the innermost last."""
    running: list[str] = []
    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue

            def enter(module: nn.Module, inputs: Any, path: str = path) -> None:
                running.append(path)

            def leave(module: nn.Module, inputs: Any, output: Any) -> None:
                running.pop()

            hooks.enter_context(module.register_forward_pre_hook(enter))
            hooks.enter_context(module.register_forward_hook(leave, always_call=True))
        yield running
