"""Networks whose plans have every kind of record.

    python tests/runtime/planned_networks.py FOLDER

writes them there, for `make sanitize`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import Artefact, export_plan, freeze


class Mixed(nn.Module):
    """One of each kind of operation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 17, 3, padding=1, stride=2)
        self.deep = nn.Conv2d(17, 17, 3, padding=2, dilation=2, groups=17)
        self.norm = nn.LayerNorm(17)
        self.last = nn.Linear(17, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + self.deep(x)
        x = nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2.0, mode="nearest")
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True))
        x = torch.cat([x * gate, x[:, :, :2]], 2).mean((2, 3))
        return self.last(self.norm(x)).softmax(-1)


def quantised() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 5))
    for name in ("0", "4"):
        layer = module.get_submodule(name)
        layer.weight.data = (layer.weight.data / 0.002).round().clamp(-127, 127) * 0.002
        quantize_input(module, name, Uniform(8, torch.tensor(0.03)))
    return module.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {"floats": Mixed, "integers": quantised}


def planned(name: str) -> Artefact:
    torch.manual_seed(0)
    return freeze(NETWORKS[name]().eval(), torch.randn(2, 3, 8, 8))


if __name__ == "__main__":
    for name in NETWORKS:
        export_plan(planned(name), Path(sys.argv[1], f"{name}.plan"))
