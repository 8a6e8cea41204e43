"""Freezing weights that a structural method made: their layouts reach the file, and it answers as before."""

from functools import partial

import numpy as np
import torch
from torch import nn

from dovetail.formats import (
    Affine,
    Bitmap,
    Dense,
    FixedPoint,
    Float,
    KernelPatterns,
    Layout,
    PowerOfTwo,
    Product,
    Repeated,
    ordered_product,
)
from dovetail.runtime import freeze


def test_structural_layouts_reach_the_file() -> None:
    rng = np.random.default_rng(0)
    shifts = np.ldexp(rng.choice([-1, 1], (6, 12, 3)), rng.integers(-5, 1, (6, 12, 3))) * (rng.random((6, 12, 3)) < 0.4)
    coefficients = Bitmap.encode(shifts, partial(PowerOfTwo.encode, exponents=(-6, 0)))
    basis = Dense.encode(rng.standard_normal((6, 3, 3)), partial(Affine.encode, bits=8))
    tile = np.tile(rng.standard_normal((2, 1, 3, 3)), (6, 1, 1, 1))
    pattern = rng.integers(-9, 10, (5, 12, 3, 3)) / 8 * np.array([[0, 1, 0], [1, 1, 1], [0, 0, 0]])
    two_of_four = rng.integers(-9, 10, (3, 5)) / 8 * np.array([0, 1, 1, 0, 1])
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.ReLU(),
        nn.Conv2d(12, 5, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).eval()
    product = ordered_product(coefficients.decode(), basis.decode()).reshape(6, 4, 3, 3)
    weights = {"0.weight": product, "2.weight": tile, "4.weight": pattern, "7.weight": two_of_four}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    eighths = partial(FixedPoint.encode, bits=5, fraction=3)
    layouts = {
        "0.weight": Layout(partial(Product.encode, coefficients=coefficients, basis=basis), entropy="smallest"),
        "2.weight": Layout("repeated", partial(Float.encode, dtype="float16")),
        "4.weight": Layout("kernel_patterns", eighths),
        "7.weight": Layout("n_m", eighths, group=(2, 4)),
    }
    tensors = freeze(model, torch.randn(2, 4, 8, 8), layouts=layouts).tensors
    assert tensors["0.weight"].bits <= coefficients.bits + basis.bits
    assert isinstance(tensors["2.weight"], Repeated) and tensors["2.weight"].bits == 2 * 9 * 16
    assert isinstance(tensors["4.weight"], KernelPatterns) and len(tensors["4.weight"].patterns) == 1
    assert tensors["7.weight"].describe() == "n_m(2:4) > fixed_point(5, 3)"
