"""The timing harness: warm up, repeat, give the median and the spread, and say on which machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from dovetail.errors import TargetError
from dovetail.machine import processor
from dovetail.targets.target import Quantity


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How to time a call: on `threads` threads, `warm_up` calls first, then at least `runs` calls and `seconds`."""

    threads: int = 1
    warm_up: int = 5
    runs: int = 30
    seconds: float = 0.5

    def __post_init__(self) -> None:
        for name in ("threads", "runs"):
            if getattr(self, name) < 1:
                raise TargetError(f"Timing.{name} is at least 1, got {getattr(self, name)}")
        if self.warm_up < 0 or self.seconds < 0:
            raise TargetError(f"Timing counts forward, got warm_up={self.warm_up}, seconds={self.seconds}")

    def samples(self, call: Callable[[], object]) -> list[float]:
        """The time of each call, in seconds."""
        for _ in range(self.warm_up):
            call()
        samples: list[float] = []
        begin = time.perf_counter()
        while len(samples) < self.runs or time.perf_counter() - begin < self.seconds:
            start = time.perf_counter()
            call()
            samples.append(time.perf_counter() - start)
        return samples


def latency(samples: list[float]) -> Quantity:
    """Median and 10th to 90th percentile, in ms."""
    low, median, high = np.percentile(samples, (10, 50, 90)) * 1e3
    return Quantity(float(median), "ms", float(low), float(high))


def throughput(samples: list[float], batch: int) -> Quantity:
    """Median and 10th to 90th percentile of `batch` inputs a call, in inputs per second."""
    slow, median, fast = batch / np.percentile(samples, (90, 50, 10))
    return Quantity(float(median), "inputs/s", float(slow), float(fast))


def machine() -> dict[str, str]:
    """Where something is measured, and what else goes on there."""
    return {
        "machine": f"{processor()}, {os.cpu_count() or '?'} logical cores",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load": f"{os.getloadavg()[0]:.1f} (1 minute average)",
    }


def conditions(timing: Timing, calls: int) -> dict[str, str]:
    """What a reader needs to judge or repeat a measurement."""
    return {
        **machine(),
        "threads": str(timing.threads),
        "runs": f"{calls} after {timing.warm_up} to warm up",
        "spread": "10th to 90th percentile around the median",
    }


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Pin torch to `threads` threads inside the block, and without gradients."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
