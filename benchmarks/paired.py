"""How many times as fast one call is as another: timed in turn, so that a noisy machine disturbs both alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

WARM_UP = 5


def paired(original: Callable[[], object], changed: Callable[[], object], pairs: int) -> dict[str, float]:
    """The ratio original / changed over the pairs: median, 10th and 90th percentile; and both medians in ms."""
    times = []
    for _ in range(WARM_UP + pairs):
        pair = []
        for run in (original, changed):
            started = time.perf_counter()
            run()
            pair.append(time.perf_counter() - started)
        times.append(pair)
    taken = np.array(times[WARM_UP:])
    low, middle, high = np.percentile(taken[:, 0] / taken[:, 1], [10, 50, 90])
    before, after = 1e3 * np.median(taken, 0)
    return {
        "speedup": round(float(middle), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "ms": round(float(after), 4),
        "ms_original": round(float(before), 4),
    }
