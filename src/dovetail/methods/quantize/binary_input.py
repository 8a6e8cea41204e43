"""What all methods share whose layers multiply signs by signs: the quantiser of the input, and which layers it fits.

A trained network has its ReLU between normalisation and convolution, so its layers' inputs are never negative and their
plain signs all alike. Hence the threshold: what is larger becomes +1, and what is smaller -1. Zero padding comes after
the quantiser and counts nothing, in training and in the packed product (`packed`) alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dovetail.errors import ModelError, RecipeError
from dovetail.formats import Binary, ValueEncoder
from dovetail.methods.method import Context, Kind, layer_path
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import INPUT, Quantizer, quantize_input, sign, straight_through
from dovetail.methods.responses import readings
from dovetail.methods.watching import require_finite
from dovetail.workload.trace import trace

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class SignedInput(Quantizer):
    """+1 where x >= threshold, else -1. The gradient is hard tanh's: it passes where |x - threshold| <= 1.

    Hubara, Courbariaux, Soudry, El-Yaniv, Bengio. Binarized Neural Networks. NeurIPS 2016. arXiv:1602.02830, eq. 4.
    `threshold` is a number, and a buffer.
    """

    threshold: Tensor

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold.detach().clone())

    def forward(self, latent: Tensor) -> Tensor:
        above = latent - self.threshold
        return straight_through(above, sign(above.detach()), above.detach().abs() <= 1)

    @property
    def bits(self) -> float:
        return 1

    def encoder(self) -> ValueEncoder:
        return partial(Binary.encode, axis=None)


class Remembering(Quantizer):
    """A quantiser of a layer's input that has a part in the layer's output too, computed from what it read.

    What it read is held only while the layer runs.
    """

    read: Tensor | None = None

    def finish(self, layer: nn.Module, read: Tensor, output: Tensor) -> Tensor:
        """The layer's output, from what the quantiser read and what the layer made of the quantised."""
        raise NotImplementedError


def remember_input(model: nn.Module, path: str, quantizer: Remembering) -> None:
    """`quantize_input`, and let `quantizer` finish the layer's output."""
    quantize_input(model, path, quantizer)
    model.get_submodule(path).register_forward_hook(_finish)


def _finish(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    quantizer = layer.get_submodule(INPUT)
    if not isinstance(quantizer, Remembering) or quantizer.read is None:
        return output  # another has taken its place, or it has finished already
    read, quantizer.read = quantizer.read, None
    return quantizer.finish(layer, read, output)


def channels(layer: nn.Module) -> int:
    """How many the layer reads."""
    count = layer.in_channels if isinstance(layer, CONVOLUTIONS) else layer.in_features
    assert isinstance(count, int)
    return count


@dataclass(frozen=True, kw_only=True)
class BinaryMethod(KeepsEnds):
    """Takes convolutions and linear layers that the network calls, and quantises their inputs too."""

    kind: ClassVar[Kind] = "share"
    pace: ClassVar[float] = 3.0
    """Signs turn late at the usual rate: in 8 epochs ResNet-20 comes to 70.1 % by `xnor`, and not to 68.7; to 63.2 %
    (55.9) by `bnn`."""

    def taken(self, model: nn.Module, context: Context) -> dict[str, str]:
        """The paths of the layers that are taken, by the names of their weights.

        Raises:
            ModelError: there is none.
        """
        running = {operation.name for operation in trace(model, context.example[:1]).operations}
        paths = {name: layer_path(name) for name in self.weights(model)}
        able = {
            name: path
            for name, path in paths.items()
            if path in running and isinstance(model.get_submodule(path), (*CONVOLUTIONS, nn.Linear))
        }
        if not able:
            raise ModelError(f"{self.name}: none of {list(paths.values())} is a convolution or linear layer in use")
        return {name: able[name] for name in self.inner(model, context, able)}

    def images(self, context: Context) -> Tensor:
        """The context's inputs.

        Raises:
            RecipeError: there are none.
        """
        if context.inputs is None:
            raise RecipeError(
                f"{self.name} takes its thresholds from what the layers read, and there are no images: give some, or "
                "take bwn, which leaves the layers' inputs as they are"
            )
        return context.inputs

    def thresholds(self, model: nn.Module, context: Context) -> dict[str, float]:
        """By the weights' names the mean of what each layer reads if that is never negative, and else 0."""
        taken = self.taken(model, context)
        found = finite_readings(model, taken.values(), self.images(context))
        return {name: float(x.mean()) if (x := found[path]).min() >= 0 else 0.0 for name, path in taken.items()}


def finite_readings(model: nn.Module, paths: Iterable[str], images: Tensor) -> dict[str, Tensor]:
    """What each layer reads at sampled positions of the images, (n, channels) by path.

    Raises:
        DataError: not finite numbers.
    """
    found = readings(model, paths, images)
    for path, x in found.items():
        require_finite(path, x)
    return found
