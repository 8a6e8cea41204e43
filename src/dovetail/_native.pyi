from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def huffman_decode(bytes: NDArray[np.uint8], lengths: NDArray[np.uint8], symbols: NDArray[np.uint32]) -> None: ...

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
