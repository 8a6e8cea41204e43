"""Which kernel multiplies stored weights fastest here: found by trying them, and remembered for this machine."""

import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.formats import Format
from dovetail.kernels.convolution import Convolution, Window
from dovetail.kernels.epilogue import Codes, Epilogue
from dovetail.kernels.stored import Stored, block_density, kernels, stored
from dovetail.machine import cache_folder, keep, processor

BURSTS, BURST = 5, 0.002  # seconds
DENSE = 0.5
"""Share of nonzeros above which kernels for single zeros are not tried."""
BLOCKS = 0.85
"""Share of nonzero blocks above which the kernel for blocks is not tried."""


def times_of(
    format: Format,
    batch: int = 1,
    image: tuple[int, int] = (1, 1),
    window: Window | None = None,
    *,
    integers: bool,
    threads: int = 1,
    shape: tuple[int, ...] | None = None,
) -> dict[str, float]:
    """Seconds that each of `candidates(format)` takes, as measured when this was first asked on this machine.

    On `batch` images, or vectors, of this size. Raises DovetailError where no kernel can hold the weights, as those
    that are not multiples of one step for activations of integers.
    """
    window = window or Window()
    able = candidates(format, integers=integers, groups=window.groups, shape=shape)
    if not able:
        raise DovetailError(f"no kernel holds {format.describe()} for {'uint8' if integers else 'float32'} activations")
    sides, density = shape or format.shape, f"{format.density:.2f}"
    if "blocks" in able:
        density += f", {_block_density(format, sides, integers):.2f} in blocks"
    asked = (format.describe(), sides, density, batch, image, window, integers, threads, able)
    file = _folder() / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:24]}.json"
    times = _read(file)
    if times.keys() == set(able):
        return times
    packed = [stored(format, kernel, integers=integers, groups=window.groups, shape=shape) for kernel in able]
    times = _measure(packed, batch, image, window, integers, threads)
    keep(file, json.dumps({"seconds": times, "of": repr(asked)}).encode())
    return times


def candidates(
    format: Format, *, integers: bool, groups: int = 1, shape: tuple[int, ...] | None = None
) -> tuple[str, ...]:
    """The kernels that can hold the weights, and may gain by it: those for zeros where there are many."""
    gains = {"codes", "dense"}
    if format.density <= DENSE:
        gains |= {"mask", "slots"}
    if format.density <= BLOCKS and _block_density(format, shape or format.shape, integers) <= BLOCKS:
        gains.add("blocks")
    return tuple(kernel for kernel in kernels(format, integers=integers, groups=groups, shape=shape) if kernel in gains)


def _block_density(format: Format, shape: tuple[int, ...], integers: bool) -> float:
    return block_density(format.decode().reshape(shape), integers=integers)


def _measure(
    able: list[Stored], batch: int, image: tuple[int, int], window: Window, integers: bool, threads: int
) -> dict[str, float]:
    runs = {}
    for weights in able:
        shape = (batch, *image, weights.shape[1] * window.groups)
        ones = np.ones(weights.shape[0], np.float32)
        codes = Codes(1, 0) if integers else None
        layer = Convolution(shape, weights, window, Epilogue(scale=ones, bias=0 * ones), codes, threads=threads)
        layer(np.ones(shape, np.uint8 if integers else np.float32))
        runs[weights.kernel] = layer.run
    times = dict.fromkeys(runs, math.inf)
    for _ in range(BURSTS):  # in turn, so that what disturbs one disturbs all; the least is the least disturbed
        for kernel, run in runs.items():
            end = time.perf_counter() + BURST
            while (start := time.perf_counter()) < end:
                run()
                times[kernel] = min(times[kernel], time.perf_counter() - start)
    return times


def _read(file: Path) -> dict[str, float]:
    try:
        return {str(kernel): float(seconds) for kernel, seconds in json.loads(file.read_text())["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _folder() -> Path:
    """Of the cache, by processor and level."""
    machine = hashlib.sha256(f"{processor()} {_native.levels()}".encode()).hexdigest()[:16]
    return cache_folder() / "kernels" / machine
