"""The peers of benchmarks/structure.py: each compresses a CIFAR ResNet in its own way, on the same weights and data.

They are not dependencies of dovetail: install them beside it, in an environment of their own:

    pip install torch-pruning==1.6.1 nncf==3.4.0 torchao openvino bokeh hvplot osqp
    pip install --no-deps aimet-torch==2.42.0

AIMET imports torchvision, whose builds on the package index do not go with every PyTorch; it needs nothing of it here,
so an empty module stands in. Torch-Pruning cannot follow the option-A shortcut (slice and pad): for it, and for it
only, the shortcuts are rewritten as fixed 1x1 convolutions that compute the same.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from collections.abc import Callable
from decimal import Decimal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.data import Dataset
from dovetail.methods.method import Context
from dovetail.methods.reconstruction import reestimate_norms
from dovetail.networks.resnet_cifar import BasicBlock
from dovetail.train import score
from dovetail.workload import trace

Peer = Callable[[nn.Module, Dataset, Context, float], nn.Module]


class ConvolutionShortcut(nn.Module):
    """A basic block whose option-A shortcut is a fixed 1x1 convolution."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        width_in, width_out = block.conv1.in_channels, block.conv2.out_channels
        self.shortcut = nn.Conv2d(width_in, width_out, 1, block.stride, bias=False)
        weight = torch.zeros(width_out, width_in)
        before = block.new_channels // 2
        weight[before : before + width_in] = torch.eye(width_in)
        self.shortcut.weight = nn.Parameter(weight[:, :, None, None])  # its importances want a gradient

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def with_convolution_shortcuts(model: nn.Module) -> nn.Module:
    """The same function, without slice and pad."""
    for path, module in list(model.named_modules()):
        if isinstance(module, BasicBlock) and (module.new_channels or module.stride > 1):
            model.set_submodule(path, ConvolutionShortcut(module))
    return model


def torch_pruning(model: nn.Module, dataset: Dataset, context: Context, ratio: float) -> nn.Module:
    """Channels, global ranking in small steps, by the importance that is best before fine-tuning.

    At these ratios all of them are at chance until the batch statistics are taken anew, which is done here for it."""
    tp = importlib.import_module("torch_pruning")
    importances = {
        "taylor": tp.importance.GroupTaylorImportance(),
        "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
        "hessian": tp.importance.GroupHessianImportance(),
    }
    found = {}
    for name, importance in importances.items():
        pruned = with_convolution_shortcuts(copy.deepcopy(model)).eval()
        whole = trace(pruned, context.example).macs
        pruner = tp.pruner.BasePruner(
            pruned, context.example, importance, global_pruning=True, pruning_ratio=0.95, iterative_steps=20,
            max_pruning_ratio=0.95, ignored_layers=[pruned.linear], round_to=None,
        )  # fmt: skip
        while trace(pruned, context.example).macs * ratio > whole:
            _gradients(pruned, dataset, importance if name == "hessian" else None)
            pruner.step()
        for block in pruned.modules():
            if isinstance(block, ConvolutionShortcut):
                block.shortcut.weight.requires_grad_(False)
        reestimate_norms(pruned, context.inputs)
        found[name] = (score(pruned, dataset, "validation"), pruned)
        print(f"torch-pruning, {name}: {found[name][0]:.4f} before fine-tuning")
    return max(found.values(), key=lambda pair: pair[0])[1]


def _gradients(model: nn.Module, dataset: Dataset, hessian: object | None) -> None:
    """Gradients of the loss on 1,000 training images; the Hessian importance wants those of single ones, 50 here."""
    model.zero_grad()
    if hessian is not None:
        hessian.zero_grad()
        hessian._accu_grad.clear()
    for inputs, targets in dataset.batches("train", 100, seed=0, limit=50 if hessian is not None else 1000):
        losses = functional.cross_entropy(model(inputs), targets, reduction="none")
        if hessian is None:
            losses.mean().backward()
            continue
        for loss in losses:
            model.zero_grad()
            loss.backward(retain_graph=True)
            hessian.accumulate_grad(model)


def nncf_magnitude(model: nn.Module, dataset: Dataset, context: Context, ratio: float) -> nn.Module:
    """Single weights by global magnitude; its ratio is one of weights, so it is raised until the MACs fit."""
    nncf = importlib.import_module("nncf")
    whole, sparsity = trace(model, context.example).macs, 1 - 1 / ratio
    while True:
        pruned = nncf.prune(
            copy.deepcopy(model), nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL, ratio=sparsity,
            examples_inputs=context.example,
        )  # fmt: skip
        if trace(pruned, context.example).nonzero_macs * ratio <= whole:
            return pruned
        sparsity += 0.01


def finished(model: nn.Module) -> nn.Module:
    """The model after training, in eval mode: NNCF's masks multiplied into the weights."""
    model.eval()
    masked = any("nncf" in type(module).__module__ for module in model.modules())
    if not masked:
        return model
    nncf = importlib.import_module("nncf")
    plain: nn.Module = nncf.strip(model, do_copy=True, strip_format=nncf.StripFormat.IN_PLACE)
    return plain.eval()


def pretend_torchvision() -> None:
    """AIMET names a few of its parts, none of which it uses here; there is none without CUDA for this torch."""
    vision = sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
    for name, parts in {"datasets": (), "transforms": ("Resize",), "ops": ("RoIPool",)}.items():
        module = sys.modules.setdefault(f"torchvision.{name}", types.ModuleType(f"torchvision.{name}"))
        setattr(vision, name, module)
        for part in parts:
            setattr(module, part, type(part, (), {}))


def aimet_spatial_svd(model: nn.Module, dataset: Dataset, context: Context, ratio: float) -> nn.Module:
    """Spatial SVD, ranks by its greedy search over accuracy on 500 images."""
    pretend_torchvision()
    defs = importlib.import_module("aimet_torch.defs")
    common = importlib.import_module("aimet_torch.common.defs")
    compressor = importlib.import_module("aimet_torch.compress").ModelCompressor
    auto = defs.SpatialSvdParameters.AutoModeParams(
        common.GreedySelectionParameters(target_comp_ratio=Decimal(1 / ratio), num_comp_ratio_candidates=10),
        modules_to_ignore=[model.conv1],
    )
    parameters = defs.SpatialSvdParameters(defs.SpatialSvdParameters.Mode.auto, auto)
    compressed, statistics = compressor.compress_model(
        model=copy.deepcopy(model),
        eval_callback=lambda candidate, iterations, use_cuda=False: score(candidate, dataset, "validation", limit=500),
        eval_iterations=1,
        input_shape=tuple(context.example.shape),
        compress_scheme=common.CompressionScheme.spatial_svd,
        cost_metric=common.CostMetric.mac,
        parameters=parameters,
    )
    print(statistics)
    return compressed


PEERS: dict[str, Peer] = {
    "torch-pruning": torch_pruning,
    "nncf magnitude": nncf_magnitude,
    "aimet spatial svd": aimet_spatial_svd,
}
