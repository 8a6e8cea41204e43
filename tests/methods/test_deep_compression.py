"""Deep Compression's arithmetic: the published kept fractions and bits, encoded for real, give the published ratios."""

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.formats import Codebook, Layout
from dovetail.methods.quantize.kmeans import initial_centroids, kmeans

ALEXNET = {  # weights, kept fraction, bits of a code (table 4; 256 shared weights in convolutions, 32 in the others)
    "conv1": (34_848, 0.84, 8), "conv2": (307_200, 0.38, 8), "conv3": (884_736, 0.35, 8), "conv4": (663_552, 0.37, 8),
    "conv5": (442_368, 0.37, 8), "fc6": (37_748_736, 0.09, 5), "fc7": (16_777_216, 0.09, 5),
    "fc8": (4_096_000, 0.25, 5),
}  # fmt: skip
SAMPLE = 400_000


def pruned(weights: int, kept: float, seed: int) -> NDArray[np.float32]:
    """Normally distributed weights in random places, of which only the `kept` largest are not zero."""
    values = np.random.default_rng(seed).standard_normal(weights).astype(np.float32)
    values[np.abs(values) < np.quantile(np.abs(values), 1 - kept)] = 0
    return values


def stored_bits(entropy: str) -> float:
    """Bits of all of AlexNet's weights; of a large layer a sample is encoded, and its streams scaled up."""
    total = 0.0
    for seed, (weights, kept, bits) in enumerate(ALEXNET.values()):
        sample = pruned(min(weights, SAMPLE), kept, seed)
        nonzero = sample[sample != 0].astype(float)
        table = np.append(0, kmeans(nonzero, initial_centroids(nonzero, 2**bits - 1, "linear"), iterations=20))
        layout = Layout(
            structure="relative_index",
            index_bits=4,  # the paper's table for AlexNet has 4 in every layer, where its text says 8 and 5
            values=partial(Codebook.encode, table=table.astype(np.float32), code_bits=bits, dtype="float32"),
            entropy=entropy,
        )
        encoded = layout.encode(sample)
        tables = encoded.bits_by_part["tables"]
        total += tables + (encoded.bits - tables) * weights / len(sample)
    return total


FLOAT32_BITS = 32 * sum(weights for weights, _, _ in ALEXNET.values())


def test_alexnet_pruned_and_shared_is_27_times_smaller() -> None:
    """Table 1 of the paper; random places need more fillers than real ones, so a little less is right."""
    assert FLOAT32_BITS / stored_bits("none") == pytest.approx(27, rel=0.1)


def test_alexnet_entropy_coded_is_at_most_as_small_as_published() -> None:
    """35 times in the paper, whose weights and gaps are less even than random ones and so code better."""
    assert 27 < FLOAT32_BITS / stored_bits("huffman") < 36
