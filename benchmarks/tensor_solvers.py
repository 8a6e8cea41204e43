"""Our solvers for Tucker-2, CP and block terms, tensorly's beside them on the same kernels.

    pip install tensorly==0.10.0; python benchmarks/tensor_solvers.py

Kernels are the 3 x 3 layers of the ResNet-20 and ResNet-56 in DOVETAIL_DATA/weights, as (T, S, 9), and one of
512 x 512 x 9 with planted rank and noise 40 dB below. Errors are ||W - W'||^2 / ||W||^2, times seconds on one thread.

tucker2   hooi against partial_tucker, both until a sweep gains less than 1e-6
cp        the error of each when `cp` is done, after as long again, and after four times as long (parafac, SVD start)
steps     Levenberg-Marquardt against alternating least squares, both ours, from one start for the same time
terms     in how many layers of ResNet-56 block terms fit better than Tucker-2 of no fewer multiply-accumulates
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tensorly
from rich.console import Console
from safetensors.numpy import load_file
from tensorly.cp_tensor import CPTensor, cp_to_tensor
from tensorly.decomposition import parafac, partial_tucker

from dovetail.machine import processor
from dovetail.methods.lowrank.btd_als import block_terms
from dovetail.methods.lowrank.cp_als import (
    alternate,
    composed,
    cp,
    from_singular_vectors,
    levenberg_marquardt,
    squared_error,
)
from dovetail.methods.lowrank.hooi import Array, hooi

RESULTS = Path(__file__).parent / "results" / "tensor_solvers.json"
WEIGHTS = Path(os.environ["DOVETAIL_DATA"]) / "weights"
GROUPS = 4


def kernels(network: str) -> dict[str, Array]:
    """The 3 x 3 kernels but the first, of norm 1."""
    found = {
        name: value.astype(np.float64).reshape(*value.shape[:2], 9)
        for name, value in load_file(WEIGHTS / f"{network}_cifar10.safetensors").items()
        if value.ndim == 4 and value.shape[1] > 3 and value.shape[2] == 3
    }
    return {name: value / np.linalg.norm(value) for name, value in found.items()}


def planted(factors: int) -> Array:
    """(512, 512, 9), a Tucker-2 of ranks (128, 128) or a CP of rank `factors`, with noise."""
    draw = np.random.default_rng(0).standard_normal
    if factors:
        tensor = composed([draw((size, factors)) for size in (512, 512, 9)])
    else:
        tensor = np.einsum("bap,sa,tb->tsp", draw((128, 128, 9)), draw((512, 128)), draw((512, 128)), optimize=True)
    noise = draw(tensor.shape)
    tensor = tensor + 0.01 * np.linalg.norm(tensor) / np.linalg.norm(noise) * noise
    return np.asarray(tensor / np.linalg.norm(tensor))


def timed(solve: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result and the median of the seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = solve()
        seconds.append(time.perf_counter() - start)
    return found, median(seconds)


def tucker2(name: str, weight: Array, rank: int, repeats: int = 3) -> dict[str, Any]:
    ours, our_seconds = timed(lambda: hooi(weight, rank, rank), repeats)
    ranks = [rank, rank]
    (theirs, _), their_seconds = timed(
        lambda: partial_tucker(weight, ranks, modes=[0, 1], n_iter_max=50, tol=1e-6, init="svd"), repeats
    )
    error = float(1 - np.square(theirs[0]).sum())
    return {
        "kernel": name, "shape": weight.shape, "rank": rank, "error": [ours.errors[-1], error],
        "seconds": [our_seconds, their_seconds], "times_faster": their_seconds / our_seconds,
    }  # fmt: skip


def cp_row(name: str, weight: Array, rank: int) -> dict[str, Any]:
    ours, seconds = timed(lambda: cp(weight, rank), 1)
    spent, current, errors = 0.0, None, []
    for longer in (1, 2, 4):
        while spent < longer * seconds:
            start = time.perf_counter()
            sweeps = 1 if current is None else 5
            current = parafac(weight, rank, n_iter_max=sweeps, tol=0, init="svd" if current is None else current,
                              random_state=0)  # fmt: skip
            spent += time.perf_counter() - start
        errors.append(float(np.square(weight - cp_to_tensor(current)).sum()))
    assert isinstance(current, CPTensor)
    return {"kernel": name, "shape": weight.shape, "rank": rank, "seconds": seconds,
            "error": squared_error(weight, ours), "tensorly_after_1_2_4_times": errors}  # fmt: skip


def steps_row(name: str, weight: Array, rank: int, seconds: float = 0.5) -> dict[str, Any]:
    start, _ = alternate(weight, from_singular_vectors(weight, rank, np.random.default_rng(0)), 10)
    errors = {}
    for solver in (levenberg_marquardt, alternate):
        factors, began = start, time.perf_counter()
        while time.perf_counter() - began < seconds:
            factors, _ = solver(weight, factors, 20)
        errors[solver.__name__] = squared_error(weight, factors)
    return {"kernel": name, "rank": rank} | errors


def terms_row(name: str, weight: Array, share: float) -> dict[str, Any]:
    outputs, inputs, positions = weight.shape
    rank = round(share * inputs / GROUPS)
    macs = GROUPS * rank * (inputs + outputs + positions * rank)
    total = inputs + outputs
    same = int(np.ceil((-total + np.sqrt(total**2 + 4 * positions * macs)) / (2 * positions)))
    terms, tucker = block_terms(weight, GROUPS, rank, rank), hooi(weight, same, same)
    return {"kernel": name, "rank": rank, "tucker2_rank": same, "macs": macs / weight.size,
            "block_terms": terms.errors[-1], "tucker2": tucker.errors[-1]}  # fmt: skip


def equal_ratio(weight: Array, ratio: float) -> int:
    """The rank at which CP has `ratio` times fewer numbers than the kernel."""
    return int(weight.size / sum(weight.shape) / ratio)


def main() -> None:
    small, deep = kernels("resnet20"), kernels("resnet56")
    wide = planted(0)
    tucker = [tucker2(name, weight, min(weight.shape[:2]) // 2) for name, weight in (small | deep).items()]
    tucker.append(tucker2("planted", wide, 128, repeats=1))
    fits = [cp_row(name, weight, equal_ratio(weight, 3)) for name, weight in list(small.items())[::2]]
    fits.append(cp_row("planted", planted(64), 64))
    steps = [steps_row(name, weight, equal_ratio(weight, 3)) for name, weight in list(small.items())[1:11]]
    terms = [terms_row(name, weight, share) for name, weight in deep.items() for share in (0.5, 0.75)]
    summary = {
        "hooi_times_faster_median": median(row["times_faster"] for row in tucker[:-1]),
        "hooi_times_faster_512": tucker[-1]["times_faster"],
        "hooi_error_over_tensorlys_worst": max(row["error"][0] / row["error"][1] for row in tucker),
        "cp_error_over_tensorlys_median_after_1_2_4_times": [
            median(row["error"] / row["tensorly_after_1_2_4_times"][i] for row in fits[:-1]) for i in range(3)
        ],
        "lm_error_over_als_median": median(row["levenberg_marquardt"] / row["alternate"] for row in steps),
        "lm_no_worse_than_als": f"{sum(r['levenberg_marquardt'] <= r['alternate'] for r in steps)} of {len(steps)}",
        "block_terms_no_worse_than_tucker2": f"{sum(r['block_terms'] <= r['tucker2'] for r in terms)} of {len(terms)}",
        "block_terms_error_over_tucker2s_median": median(row["block_terms"] / row["tucker2"] for row in terms),
    }
    Console().print(summary)
    machine = {"machine": processor(), "threads": 1, "tensorly": tensorly.__version__, "numpy": version("numpy")}
    record = machine | summary | {"tucker2": tucker, "cp": fits, "steps": steps, "block_terms": terms}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
