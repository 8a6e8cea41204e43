"""Mixed precision: how many bits each layer's weights get, so that all together have so many on average.

Each layer alone is quantised to every number of bits, and what that does to the network is measured; the solver of
`allocation` then picks one number a layer so that the sum of what is lost is least. First and last layers get what they
need by measurement, not by name.

After Cai, Yao, Dong, Gholami, Mahoney, Keutzer. ZeroQ. CVPR 2020. arXiv:2001.00281, section 3.2, which measures a
divergence of the outputs as we do without labels; and Hubara et al. AdaQuant. ICML 2021. arXiv:2006.10518, section 4,
which solves the same integer program.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dovetail.methods.allocation import Option, allocate, measured_at, rises
from dovetail.methods.constraint import bake

BITS = (2, 3, 4, 5, 6, 7, 8)
"""What there is to choose from."""


def chosen_bits(
    model: nn.Module,
    paths: list[str],
    on_grid: Callable[[str, Tensor, int], Tensor],
    measure: Callable[[nn.Module], float],
    mean_bits: float,
    probes: int,
) -> dict[str, Option]:
    """For each of the layers its bits (`setting`) and by what `measure` rises if it alone is quantised so (`loss`).

    on_grid: what becomes of the weight of the layer at a path with so many bits. mean_bits: what all weights may have
    on average, at least the least of BITS. probes: how many settings of a layer are measured; the others are taken as
    proportional to the squared error of the weight.
    """
    plain = bake(model)
    base = measure(plain)
    options = {}
    for path in paths:
        weight = plain.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        kept = weight.detach().clone()
        values = [on_grid(path, kept, bits) for bits in BITS]
        errors = [float((value - kept).square().sum()) for value in values]
        measured = {}
        for setting in measured_at(len(BITS), probes):
            weight.data = values[setting]
            measured[setting] = measure(plain) - base
        weight.data = kept
        options[path] = [
            Option(bits, bits * kept.numel(), loss) for bits, loss in zip(BITS, rises(errors, measured), strict=True)
        ]
    total = sum(own[0].cost // BITS[0] for own in options.values())
    return allocate(options, mean_bits * total, f"mean of {mean_bits:g} bits a weight")
