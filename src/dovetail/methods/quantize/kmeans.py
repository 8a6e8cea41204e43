"""One-dimensional k-means (Lloyd's algorithm), arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def initial_centroids(values: Values, count: int, initialisation: str, seed: int = 0) -> Values:
    """`count` ascending centroids to start from.

    "linear" spaces them evenly over [min, max], which keeps the rare large weights; "density" takes evenly spaced
    quantiles; "random" takes `count` of the values. (Deep Compression, section 3.2.)
    """
    if initialisation == "linear":
        return np.linspace(values.min(), values.max(), count)
    if initialisation == "density":
        return np.quantile(values, (np.arange(count) + 0.5) / count)
    chosen = np.random.default_rng(seed).choice(values, count, replace=len(values) < count)
    return np.sort(chosen)


def kmeans(values: Values, centroids: Values, iterations: int = 300) -> Values:
    """Centroids that locally minimise sum_i min_c (values_i - c)^2, ascending; empty clusters stay where they are.

    In one dimension clusters are intervals of the sorted values, bounded by the midpoints between centroids, so an
    iteration costs k binary searches and k differences of prefix sums.
    """
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(iterations):
        midpoints = (centroids[1:] + centroids[:-1]) / 2
        bounds = np.concatenate([[0], np.searchsorted(ordered, midpoints), [len(ordered)]])
        counts = np.diff(bounds)
        moved = np.where(counts > 0, (sums[bounds[1:]] - sums[bounds[:-1]]) / np.maximum(counts, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = np.sort(moved)
    return centroids


def nearest(values: Values, centroids: Values) -> NDArray[np.int64]:
    """The index of the nearest of the ascending centroids for each value; of equals, the upper."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="right")
