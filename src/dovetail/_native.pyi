from collections.abc import Sequence
from typing import Any, TypeAlias, overload

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
) -> tuple[list[tuple[float, list[list[int]], list[tuple[int, int]], int, list[int]]], float, int, bool]: ...

class Trial:
    def set(self, tensor: int, values: NDArray[Any], /) -> None: ...
    def get(self, values: NDArray[Any], /) -> None: ...
    def run(self) -> None: ...

def convolution_trial(
    level: str,
    threads: int,
    batch: int,
    tensors: Sequence[tuple[bool, int, int, int, int, float, int]],
    weights: Weights,
    window: Sequence[int],
    epilogue: Epilogue,
    /,
) -> Trial: ...
def levels() -> list[str]: ...
def level() -> str: ...

class Weights:
    @property
    def kind(self) -> str: ...
    @property
    def bytes(self) -> int: ...

_Table: TypeAlias = NDArray[np.float32] | NDArray[np.int8]

def pack_codes(codes: NDArray[np.uint8], bits: int, table: _Table, sides: Sequence[int], /) -> Weights: ...
def pack_signs(
    signs: NDArray[np.uint8], bytes: bool, least: int, middle: float, sides: Sequence[int], /
) -> Weights: ...
def pack_mask(places: NDArray[np.int64], values: _Table, sides: Sequence[int], /) -> Weights: ...
def pack_slots(places: NDArray[np.int64], values: _Table, sides: Sequence[int], /) -> Weights: ...
def pack_blocks(places: NDArray[np.int64], values: _Table, sides: Sequence[int], /) -> Weights: ...
def pack_coded_slots(
    places: NDArray[np.int64], codes: NDArray[np.uint8], table: NDArray[np.float32], sides: Sequence[int], /
) -> Weights: ...
def pack_inputs(weights: _Table, sides: Sequence[int], /) -> Weights: ...
def pack_coded_inputs(codes: NDArray[np.uint8], table: NDArray[np.int8], sides: Sequence[int], /) -> Weights: ...
@overload
def pack(weights: NDArray[np.float32], groups: int, /) -> Weights: ...
@overload
def pack(weights: NDArray[np.int8], groups: int, /) -> Weights: ...

class Epilogue:
    scale: list[float]
    bias: list[float]
    rounding: list[float]
    residual: list[float]
    activation: int
    slopes: list[float]
    low: float
    high: float
    def __init__(
        self,
        scale: NDArray[np.float32],
        bias: NDArray[np.float32],
        rounding: tuple[float, float, float],
        residual: NDArray[np.float32],
        activation: int,
        slopes: NDArray[np.float32],
        low: float,
        high: float,
        /,
    ) -> None: ...

_Place: TypeAlias = tuple[int, int, int]
_Box: TypeAlias = tuple[_Place, _Place, list[tuple[int, _Place, _Place]]]
_Between: TypeAlias = tuple[int, int, float]

class Program:
    def __init__(self, threads: int) -> None: ...
    def tensor(
        self, bytes: bool, rows: int, columns: int, channels: int, border: int, scale: float, zero: int, /
    ) -> int: ...
    def external(self, values: int, /) -> int: ...
    def copy(self, reads: list[int], write: int, boxes: list[list[_Box]], low: float, high: float, /) -> None: ...
    def convolution(
        self, reads: list[int], write: int, window: list[int], weights: Weights, epilogue: Epilogue, /
    ) -> None: ...
    def elementwise(self, reads: list[int], write: int, arithmetic: int, epilogue: Epilogue, /) -> None: ...
    def pool(
        self, read: int, write: int, window: list[int], padding_after: list[int], kind: int, epilogue: Epilogue, /
    ) -> None: ...
    def product(self, reads: list[int], write: int, epilogue: Epilogue, /) -> None: ...
    def recurrent(
        self,
        read: int,
        write: int,
        kind: int,
        directions: Sequence[
            tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], bool]
        ],
        /,
    ) -> None: ...
    def normalise(
        self,
        read: int,
        write: int,
        kind: int,
        epsilon: float,
        beside: tuple[int, int],
        response: tuple[float, float, float],
        epilogue: Epilogue,
        /,
    ) -> None: ...
    def resize(
        self, read: int, write: int, rows: list[_Between], columns: list[_Between], epilogue: Epilogue, /
    ) -> None: ...
    def run(self, batch: int, inputs: list[NDArray[np.float32]], outputs: list[NDArray[np.float32]], /) -> None: ...
    def profile(
        self, batch: int, inputs: list[NDArray[np.float32]], outputs: list[NDArray[np.float32]], runs: int, /
    ) -> list[float]: ...
    def kernels(self) -> list[str]: ...
    def images_at_once(self, batch: int, /) -> list[int]: ...
    def memory(self, batch: int, /) -> tuple[int, int]: ...
