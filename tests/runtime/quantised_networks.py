"""Small networks whose weights and activations are quantised, as a method would leave them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.methods.constraint import constrain, layouts
from dovetail.methods.quantize.quantizer import quantize_input, quantize_output
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import Artefact, freeze

X = torch.randn(4, 2, 12, 12, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """A block whose shortcut is cut down and padded, as in ResNets for small pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


class Attention(nn.Module):
    """A network of rows, each of which looks at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.both, self.last = nn.Linear(12, 16), nn.Linear(16, 32, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.gelu(self.first(x.flatten(1, 2)))
        keys, values = self.both(rows).chunk(2, -1)
        found: Tensor = self.last(rows + (rows @ keys.transpose(1, 2)).softmax(-1) @ values)
        return found.mean(1)


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(150, 20), nn.ReLU(), nn.Linear(20, 5),
    )  # fmt: skip
    return _used(model)


def residual() -> nn.Sequential:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return _used(nn.Sequential(stem, Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)))


def _used(model: nn.Sequential) -> nn.Sequential:
    """With batch normalisations that have seen something, some of whose factors are negative."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    model.train()(torch.randn(32, 2, 12, 12))
    return model.eval()


def quantise(
    model: nn.Module, weight_bits: int = 8, bits: int = 8, symmetric: bool = False, outputs: tuple[str, ...] = ()
) -> nn.Module:
    """Every layer's weight, for each output channel, and input; and the outputs of the modules named."""
    layers = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda _, given, made, path=path: seen.update({f"in {path}": given[0], f"out {path}": made})
        )
        for path in (*layers, *outputs)
    ]
    with torch.no_grad():
        model(X)
    for hook in hooks:
        hook.remove()
    for path in outputs:
        quantize_output(model, path, _fitting(seen[f"out {path}"], bits, symmetric))
    for path in layers:
        quantize_input(model, path, _fitting(seen[f"in {path}"], bits, symmetric))
        weight = model.get_submodule(path).weight.detach()
        scale = weight.abs().flatten(1).amax(1) / (2 ** (weight_bits - 1) - 1)
        constrain(model, f"{path}.weight", Uniform(weight_bits, scale))
    return model


def _fitting(x: Tensor, bits: int, symmetric: bool) -> Uniform:
    """What saturates a little."""
    low, high = min(0.9 * x.min().item(), 0), 0.9 * x.max().item()
    if symmetric:
        return Uniform(bits, torch.tensor(max(-low, high) / (2 ** (bits - 1) - 1)))
    scale = (high - low) / (2**bits - 1)
    return Uniform(bits, torch.tensor(scale), torch.tensor(round(-low / scale)))


def frozen(model: nn.Module) -> Artefact:
    return freeze(model, X, layouts=layouts(model))
