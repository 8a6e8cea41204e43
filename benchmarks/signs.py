"""How much faster are products of signs? Against a plain float32 loop, over channels and sizes of windows.

    python benchmarks/signs.py

Rastegari, Ordonez, Redmon, Farhadi. XNOR-Net. ECCV 2016. arXiv:1603.05279, section 3.2: of a convolution of c channels
by a window of n_W taps, where L = 64 products of signs take the time of one of floats,

    S = L c n_W / (c n_W + L)

times as fast: what is done once an output is another such time. One thread; both read the same signs as floats, the
engine's packs them itself, and the answers must be equal. Each instruction set has its own L, which is fitted (to the
least sum of |log(speedup / S)|): what is judged is whether the speedups follow c and n_W. Records results/signs.json.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from records import record
from rich.console import Console
from rich.table import Table

from dovetail import _native
from dovetail.formats import Binary
from dovetail.kernels import Convolution, Epilogue, Window, signs
from dovetail.machine import processor
from kernels import burst

RESULTS = Path(__file__).parent / "results" / "signs.json"
CHANNELS, WINDOWS = (64, 128, 256, 512), (1, 3, 5)
IMAGE, OUTPUTS = 14, 256
ROUNDS = 7
FLOATS = ctypes.POINTER(ctypes.c_float)


@contextmanager
def naive() -> Iterator[Any]:
    """The plain loop, compiled."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(__file__).parent / "naive.cpp", Path(folder, "naive.so")
        options = ["-O3", "-fno-tree-vectorize", "-shared", "-fPIC"]
        subprocess.run(["g++", *options, source, "-o", library], check=True)
        yield ctypes.CDLL(str(library)).convolution


def case(plain: Any, level: str, channels: int, size: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    x = rng.choice(np.float32([-1, 1]), (1, IMAGE, IMAGE, channels))
    weights = rng.choice(np.float32([-1, 1]), (OUTPUTS, channels, size, size))
    result = IMAGE - size + 1
    ones = np.ones(OUTPUTS, np.float32)
    stored = signs(Binary.encode(weights), integers=False)
    ours = Convolution(x.shape, stored, Window(), Epilogue(scale=ones, bias=0 * ones), level=level)
    answer = np.empty((result, result, OUTPUTS), np.float32)
    by_tap = np.ascontiguousarray(weights.transpose(0, 2, 3, 1))
    pointers = [array.ctypes.data_as(FLOATS) for array in (x, by_tap, answer)]
    loop = lambda: plain(*pointers, IMAGE, IMAGE, channels, OUTPUTS, size)  # noqa: E731
    loop()
    if not np.array_equal(ours(x)[0], answer):
        raise SystemExit(f"{channels} channels, {size} x {size}: the answers differ")
    pairs = np.array([(burst(loop), burst(ours.run)) for _ in range(ROUNDS)])
    return {
        "us": round(1e6 * float(np.median(pairs[:, 1])), 1),
        "us_naive": round(1e6 * float(np.median(pairs[:, 0])), 1),
        "speedup": round(float(np.median(pairs[:, 0] / pairs[:, 1])), 1),
        "products": channels * size**2,
    }


def follow(rows: Collection[dict[str, float]]) -> int:
    """L; each row gets the S there, and its speedup as a part of that."""
    products, speedups = (np.array([row[key] for row in rows]) for key in ("products", "speedup"))
    misfit = {at: np.abs(np.log(speedups / model(products, at))).sum() for at in range(8, 4096)}
    best = min(misfit, key=misfit.__getitem__)
    for row in rows:
        row["S"] = round(float(model(row["products"], best)), 1)
        row["of_S"] = round(row["speedup"] / row["S"], 2)
    return best


def model(products: Any, at_once: int) -> Any:
    return at_once * products / (products + at_once)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with naive() as plain:
        for level in _native.levels()[:-1]:  # the last is plain C++
            cases = {f"{c} x {d} x {d}": case(plain, level, c, d) for c in CHANNELS for d in WINDOWS}
            about = {"L": follow(cases.values()), "processor": processor(), "load": os.getloadavg()[0]}
            rows[level] = about | {"cases": cases}
    record(RESULTS, rows)
    for level, about in rows.items():
        table = Table(
            "c x d x d", "us", "naive us", "speedup", "c n_W", "S", "speedup / S", title=f"{level}, L = {about['L']}"
        )
        for name, row in about["cases"].items():
            table.add_row(name, *(str(value) for value in row.values()))
        Console().print(table)


if __name__ == "__main__":
    main()
