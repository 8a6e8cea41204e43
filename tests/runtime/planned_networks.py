"""Networks whose plans have every kind of record.

    python tests/runtime/planned_networks.py FOLDER

writes them there, for `make sanitize`.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dovetail.formats import Affine, Codebook, Float, Layout
from dovetail.methods.method import Context
from dovetail.methods.prune.sensitivity import kept_largest
from dovetail.methods.quantize.binary_maps import BinaryMaps
from dovetail.methods.quantize.quantizer import quantize_input, quantize_output
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import Artefact, EngineSession, export_plan, freeze
from dovetail.runtime.engine.layers import Convolution
from dovetail.runtime.engine.plan_file import plan_bytes
from dovetail.runtime.files import write_atomically


class Mixed(nn.Module):
    """One of each kind of operation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 17, 3, padding=1, stride=2)
        self.beside = nn.LocalResponseNorm(3)
        self.deep = nn.Conv2d(17, 17, 3, padding=2, dilation=2, groups=17)
        self.norm = nn.LayerNorm(17)
        self.last = nn.Linear(17, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.beside(torch.relu(self.first(x)))
        x = x + self.deep(x)
        x = nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2.0, mode="nearest")
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True))
        x = torch.cat([x * gate, x[:, :, :2]], 2).mean((2, 3))
        return self.last(self.norm(x)).softmax(-1)


class Steps(nn.Module):
    """Recurrences in both directions, over the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(24, 6, batch_first=True, bidirectional=True)
        self.second = nn.GRU(12, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = x.permute(0, 2, 1, 3).flatten(2)
        y: torch.Tensor = self.second(self.first(steps)[0])[0]
        return y


def quantised() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 5))
    for name in ("0", "4"):
        layer = module.get_submodule(name)
        layer.weight.data = (layer.weight.data / 0.002).round().clamp(-127, 127) * 0.002
        quantize_input(module, name, Uniform(8, torch.tensor(0.03)))
    return module.eval()


class Summed(nn.Module):
    """A sum of codes, that of a convolution rounded before it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Linear(16, 5)
        for layer in (self.first, self.second):
            layer.weight.data = (layer.weight.data / 0.002).round().clamp(-127, 127) * 0.002
        for name in ("first", "second"):
            quantize_input(self, name, Uniform(8, torch.tensor(0.03)))
        quantize_output(self, "second", Uniform(8, torch.tensor(0.02)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(x + self.second(x)).mean((2, 3)))


class Attention(nn.Module):
    """Products of two values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 20), nn.Linear(16 * 20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(nn.functional.max_pool2d(x, 2).flatten(2).transpose(1, 2))
        x = x + (x @ x.transpose(1, 2)).softmax(-1) @ x
        return self.last(x.flatten(1))


def of_signs() -> nn.Module:
    """Signs of weights and maps, with a way around that has a factor for each channel."""
    inner = nn.Conv2d(20, 20, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 20, 3), inner, nn.ReLU(), nn.Conv2d(20, 5, 5, padding=1))
    images = torch.randn(8, 3, 8, 8)
    context = Context(loss=lambda _: 0.0, example=images[:1], inputs=images, original=model)
    method = BinaryMaps(keep_ends=False, gradual=False)
    made = method.apply(model, method.plan(model, context), 0, context)
    for module in made.modules():
        if isinstance(module, nn.PReLU):
            nn.init.normal_(module.weight)
    return nn.Sequential(made, nn.Flatten())


FEW = partial(Codebook.encode, table=np.array([-3, -2, -1, 0, 1, 2, 3, 5], np.float32) / 16)


def stored(integers: bool) -> tuple[nn.Module, dict[str, Layout]]:
    """Weights in each form that a plan has: codes, a bitmap, nonzeros, these as codes, blocks (of integers), dense."""
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 12, 3, padding=1, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 36), nn.ReLU(),
        nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 5),
    ).eval()  # fmt: skip
    plain = partial(Affine.encode, bits=8) if integers else Float.encode
    chosen = {
        "0": (1.0, Layout("dense", FEW)),
        "2": (0.35, Layout("bitmap", plain)),
        "5": (0.15, Layout("relative_index", plain)),
        "7": (0.1, Layout("relative_index", FEW, entropy="huffman")),
        "9": (1.0, Layout("bitmap", plain)),
        "11": (1.0, Layout("dense", plain)),
    }
    model[9].weight.data *= kept_largest(model[9].weight, 0.4, (16, 4))
    for path, (kept, layout) in chosen.items():
        weight = model.get_submodule(path).weight
        values = weight.data * (weight.data.abs() >= weight.data.abs().quantile(1 - kept))
        weight.data = torch.from_numpy(layout.encode(values.numpy()).decode())
        if integers:
            quantize_input(model, path, Uniform(8, torch.tensor(0.03)))
    return model, {f"{path}.weight": layout for path, (_, layout) in chosen.items()}


NETWORKS: dict[str, Callable[[], tuple[nn.Module, dict[str, Layout]]]] = {
    "floats": lambda: (Mixed(), {}),
    "integers": lambda: (quantised(), {}),
    "sums of codes": lambda: (Summed(), {}),
    "steps": lambda: (Steps(), {}),
    "attention": lambda: (Attention(), {}),
    "signs": lambda: (of_signs(), {}),
    "stored floats": lambda: stored(False),
    "stored integers": lambda: stored(True),
}

STORED = ("stored floats", "stored integers")


def planned(name: str) -> Artefact:
    torch.manual_seed(0)
    model, layouts = NETWORKS[name]()
    return freeze(model.eval(), torch.randn(2, 3, 8, 8), layouts=layouts)


def plan_by_input(name: str) -> bytes:
    """With a row of weights for each input in all layers of one vector."""
    session = EngineSession(planned(name), 1, choose="stored")
    for layer in session.plan.layers:
        if isinstance(layer, Convolution) and layer.places == (1, 1):
            session.packing.kernels[layer.output] = "inputs"
    return plan_bytes(session)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in NETWORKS:
        export_plan(planned(name), folder / f"{name.replace(' ', '_')}.plan")
    for name in STORED:
        write_atomically(folder / f"{name.replace(' ', '_')}_by_input.plan", plan_by_input(name))
