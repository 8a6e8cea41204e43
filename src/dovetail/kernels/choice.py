"""Which kernel multiplies stored weights fastest here: found by trying them, and remembered for this machine."""

import hashlib
import json
import os
import platform
import time
from pathlib import Path

import numpy as np

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.formats import Format
from dovetail.kernels.convolution import Convolution, Window
from dovetail.kernels.epilogue import Codes, Epilogue
from dovetail.kernels.stored import kernels, stored

BURSTS, BURST = 5, 0.002  # seconds


def kernel_for(
    format: Format,
    batch: int = 1,
    image: tuple[int, int] = (1, 1),
    window: Window | None = None,
    *,
    integers: bool,
    threads: int = 1,
) -> str:
    """The fastest of `kernels(format)` for layers of these weights on `batch` images, or vectors, of this size.

    Raises DovetailError where none can hold them, as weights that are not multiples of one step for activations of
    integers.
    """
    window = window or Window()
    able = kernels(format, integers=integers, groups=window.groups)
    if not able:
        raise DovetailError(f"no kernel holds {format.describe()} for {'uint8' if integers else 'float32'} activations")
    asked = (format.describe(), format.shape, f"{format.density:.2f}", batch, image, window, integers, threads, able)
    file = _folder() / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:24]}.json"
    chosen = _read(file)
    if chosen in able:
        return chosen
    chosen = _fastest(format, able, batch, image, window, integers, threads)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({"kernel": chosen, "of": repr(asked)}) + "\n")
    part.replace(file)
    return chosen


def _fastest(
    format: Format,
    able: tuple[str, ...],
    batch: int,
    image: tuple[int, int],
    window: Window,
    integers: bool,
    threads: int,
) -> str:
    runs, times = {}, dict.fromkeys(able, np.inf)
    for kernel in able:
        weights = stored(format, kernel, integers=integers, groups=window.groups)
        shape = (batch, *image, weights.shape[1] * window.groups)
        ones = np.ones(weights.shape[0], np.float32)
        codes = Codes(1, 0) if integers else None
        layer = Convolution(shape, weights, window, Epilogue(scale=ones, bias=0 * ones), codes, threads=threads)
        layer(np.ones(shape, np.uint8 if integers else np.float32))
        runs[kernel] = layer.run
    for _ in range(BURSTS):  # in turn, so that what disturbs one disturbs all; the least is the least disturbed
        for kernel, run in runs.items():
            end = time.perf_counter() + BURST
            while (start := time.perf_counter()) < end:
                run()
                times[kernel] = min(times[kernel], time.perf_counter() - start)
    return min(able, key=times.__getitem__)


def _read(file: Path) -> str:
    try:
        return str(json.loads(file.read_text())["kernel"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _folder() -> Path:
    """$DOVETAIL_CACHE, or $XDG_CACHE_HOME/dovetail, or ~/.cache/dovetail; there "kernels", by processor and level."""
    given = os.environ.get("DOVETAIL_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dovetail"
    machine = hashlib.sha256(f"{_processor()} {_native.levels()}".encode()).hexdigest()[:16]
    return Path(given or user) / "kernels" / machine


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    return next((line for line in lines if line.startswith("model name")), platform.processor())
