"""Hierarchical clusters by Ward's criterion, from distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.runtime.rounding import rounding

__all__ = ["ward_clusters"]


@rounding()
def ward_clusters(distances: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return a number 0 .. for each of n items: at most `count` clusters, in the order in which the tree of merges is walked.

    distances (n, n), symmetric.  Merges are those of the nearest-neighbour chain; a merged cluster's distances follow Lance and
    Williams.  Clusters and numbers are those of SciPy's `linkage(method="ward")` and `fcluster(criterion="maxclust")`, except for
    equal distances.
    """
    n = len(distances)
    children, heights = _merges(np.array(distances, np.float64))
    # All merges up to the height at which no more than `count` clusters are left.
    cut = heights[n - count - 1]
    return _numbers(n, children, heights <= cut)


def _merges(d: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the two parts and the height of each merge, lowest first: part i < n is an item, part n + i the result of merge i."""
    n = len(d)
    np.fill_diagonal(d, np.inf)
    sizes = np.ones(n)
    pairs, heights = np.empty((n - 1, 2), np.int64), np.empty(n - 1)
    chain: list[int] = []
    for i in range(n - 1):
        if not chain:
            chain = [int(np.argmax(sizes > 0))]
        while True:
            x = chain[-1]
            y = int(np.argmin(d[x]))
            # The previous link is as near: the two are each other's nearest.
            if len(chain) > 1 and not d[x, y] < d[x, chain[-2]]:
                y = chain[-2]
                break
            chain.append(y)
        del chain[-2:]
        low, high = min(x, y), max(x, y)
        pairs[i], heights[i] = (low, high), d[x, y]
        a, b, total = sizes[low], sizes[high], sizes[low] + sizes[high] + sizes
        with np.errstate(invalid="ignore"):
            squares = ((a + sizes) * d[low] ** 2 + (b + sizes) * d[high] ** 2 - sizes * heights[i] ** 2) / total
            merged = np.sqrt(np.maximum(squares, 0))
        merged[[low, high]] = np.inf
        merged[sizes == 0] = np.inf
        # The result takes the place of the higher part.
        d[high], d[:, high] = merged, merged
        d[low], d[:, low] = np.inf, np.inf
        sizes[high], sizes[low] = a + b, 0
    order = np.argsort(heights, kind="stable")
    return _parts(n, pairs[order]), heights[order]


def _parts(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the parts of each merge, the lower number first, from an item of each part."""
    parent = np.arange(2 * n - 1)

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = int(parent[x])
        return x

    children = np.empty((n - 1, 2), np.int64)
    for i, (x, y) in enumerate(pairs.tolist()):
        children[i] = sorted((root(x), root(y)))
        parent[children[i]] = n + i
    return children


def _numbers(n: int, children: NDArray[np.int64], merged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the clusters: those below a merge before the single items that it joins, the first part before the second."""
    out = np.empty(n, np.int64)
    count = 0
    # A merge that was made lies in one cluster with all below it.
    pending: list[tuple[int, int | None, bool]] = [(n - 2, None, False)]
    while pending:
        merge, cluster, done = pending.pop()
        if done:
            for part in children[merge]:
                if part < n:
                    out[part] = count if cluster is None else cluster
                    count += cluster is None
            continue
        if cluster is None and merged[merge]:
            cluster, count = count, count + 1
        pending.append((merge, cluster, True))
        pending += [(int(part) - n, cluster, False) for part in children[merge][::-1] if part >= n]
    return out
