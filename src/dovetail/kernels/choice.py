"""Which kernel multiplies stored weights fastest here: found by trying them, and remembered for this machine."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.formats import Format
from dovetail.kernels.convolution import Convolution, Window
from dovetail.kernels.epilogue import Codes, Epilogue
from dovetail.kernels.stored import Stored, block_density, kernels, plain, stored
from dovetail.machine import cache_folder, keep, processor

DENSE_KERNELS = ("inputs", "dense")
"""That can hold any weights."""

BURSTS, BURST = 5, 0.002  # seconds
DENSE = 0.5
"""Share of nonzeros above which kernels for single zeros are not tried."""
BLOCKS = 0.85
"""Share of nonzero blocks above which the kernel for blocks is not tried."""


@dataclass(frozen=True)
class Reading:
    """What a layer reads: `batch` images, or vectors, of this size.

    `zeros`: it is one vector, which comes out of a ReLU: half of its numbers are zero.
    """

    batch: int = 1
    image: tuple[int, int] = (1, 1)
    window: Window = field(default_factory=Window)
    integers: bool = False
    zeros: bool = False


def times_of(
    format: Format, reading: Reading, *, threads: int = 1, shape: tuple[int, ...] | None = None
) -> dict[str, float]:
    """Seconds that each of `candidates(format)` takes, as measured when this was first asked on this machine.

    Raises DovetailError where no kernel can hold the weights, as those that are not multiples of one step for
    activations of integers.
    """
    groups, integers = reading.window.groups, reading.integers
    able = candidates(format, integers=integers, groups=groups, shape=shape, zeros=reading.zeros)
    if not able:
        raise DovetailError(f"no kernel holds {format.describe()} for {'uint8' if integers else 'float32'} activations")
    sides, density = shape or format.shape, f"{format.density:.2f}"
    if "blocks" in able:
        density += f", {_block_density(format, sides, integers):.2f} in blocks"

    def pack(kernel: str) -> Stored:
        return stored(format, kernel, integers=integers, groups=groups, shape=shape)

    return _times((format.describe(), sides, density), able, reading, threads, pack)


def times_of_dense(shape: tuple[int, int, int, int], reading: Reading, *, threads: int = 1) -> dict[str, float]:
    """The same of DENSE_KERNELS, for weights of one group of which nothing else is known."""
    weights = np.zeros(shape, np.int8 if reading.integers else np.float32)
    return _times(("dense", shape), DENSE_KERNELS, reading, threads, lambda kernel: plain(weights, kernel))


def _times(
    what: tuple[object, ...], able: tuple[str, ...], reading: Reading, threads: int, pack: Callable[[str], Stored]
) -> dict[str, float]:
    asked = (*what, reading, threads, able)
    file = _folder() / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:24]}.json"
    times = _read(file)
    if times.keys() == set(able):
        return times
    times = _measure([pack(kernel) for kernel in able], reading, threads)
    keep(file, json.dumps({"seconds": times, "of": repr(asked)}).encode())
    return times


def candidates(
    format: Format, *, integers: bool, groups: int = 1, shape: tuple[int, ...] | None = None, zeros: bool = False
) -> tuple[str, ...]:
    """The kernels that can hold the weights, and may gain by it: those for zeros where there are many."""
    gains = {"codes", "dense"} | ({"inputs"} if zeros else set())
    if format.density <= DENSE:
        gains |= {"mask", "slots"}
    if format.density <= BLOCKS and _block_density(format, shape or format.shape, integers) <= BLOCKS:
        gains.add("blocks")
    return tuple(kernel for kernel in kernels(format, integers=integers, groups=groups, shape=shape) if kernel in gains)


def _block_density(format: Format, shape: tuple[int, ...], integers: bool) -> float:
    return block_density(format.decode().reshape(shape), integers=integers)


def _measure(able: list[Stored], reading: Reading, threads: int) -> dict[str, float]:
    runs, integers = {}, reading.integers
    for weights in able:
        shape = (reading.batch, *reading.image, weights.shape[1] * reading.window.groups)
        ones = np.ones(weights.shape[0], np.float32)
        codes, epilogue = Codes(1, 0) if integers else None, Epilogue(scale=ones, bias=0 * ones)
        layer = Convolution(shape, weights, reading.window, epilogue, codes, threads=threads)
        read = np.random.default_rng(0).random(shape) < 0.5 if reading.zeros else np.ones(shape)
        layer(read.astype(np.uint8 if integers else np.float32))
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
