from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def huffman_decode(bytes: NDArray[np.uint8], lengths: NDArray[np.uint8], symbols: NDArray[np.uint32]) -> None: ...
def best_mapping(
    extents: list[int],
    stride: list[int],
    dilation: list[int],
    dimensions: list[list[float]],
    stores: list[list[float]],
    boundaries: list[list[float]],
    prices: list[float],
    halo_reuse: bool,
    objective: int,
    seconds: float,
    budget: int,
) -> tuple[
    list[tuple[float, list[list[int]], list[tuple[int, int]], int, list[int]]], float, int, bool
]: ...

class Trial:
    def set(self, tensor: int, values: NDArray[Any], /) -> None: ...
    def get(self, values: NDArray[Any], /) -> None: ...
    def run(self) -> None: ...

def convolution_trial(
    level: str,
    threads: int,
    batch: int,
    tensors: Sequence[tuple[bool, int, int, int, int, float, int]],
    weights: NDArray[Any],
    groups: int,
    window: Sequence[int],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
    activation: int,
    low: float,
    high: float,
    /,
) -> Trial: ...
def levels() -> list[str]: ...
