import numpy as np
from numpy.typing import NDArray

def huffman_decode(bytes: NDArray[np.uint8], lengths: NDArray[np.uint8], symbols: NDArray[np.uint32]) -> None: ...
