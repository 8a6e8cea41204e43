"""The weight matrices of recurrent layers, and a hold on them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from dovetail.methods.constraint import Constraint, constrain
from dovetail.methods.method import layer_path

RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def recurrent_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every weight matrix of recurrent layers and cells: `lstm.weight_ih_l0`, `cell.weight_hh`."""
    for path, module in model.named_modules():
        if not isinstance(module, RECURRENT):
            continue
        names = module._flat_weights_names if isinstance(module, nn.RNNBase) else ["weight_ih", "weight_hh"]
        for name in names:
            if name.startswith("weight"):
                yield f"{path}.{name}" if path else name, getattr(module, name).detach()


def constrain_recurrent(model: nn.Module, name: str, constraint: Constraint) -> None:
    """`constrain`, also where the weight belongs to a recurrent layer."""
    constrain(model, name, constraint)
    layer = model.get_submodule(layer_path(name))
    if isinstance(layer, nn.RNNBase) and "_flat_weights" in vars(layer):
        # torch keeps a list of the weights as last computed: such a list cannot be copied, and goes out of date. The
        # class is this layer's and its copies' own, made by the first parametrization.
        del layer._flat_weights
        type(layer)._flat_weights = property(_computed_weights, lambda layer, weights: None)  # type: ignore[assignment]


def _computed_weights(layer: nn.RNNBase) -> list[Tensor]:
    return [getattr(layer, name) for name in layer._flat_weights_names]
