"""A part of a proxy set that stands for the whole: chosen at the server, without labels, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.filters.kmeans import kmeans, nearest, row_squares, squared_distances


@dataclass(frozen=True)
class CoreSet:
    """Part of the proxy samples that is kept; the others are never sent, queried or distilled."""

    size: int
    """number of proxy samples to keep, at least 1"""
    rule: Literal["random", "k_centre", "balanced"] = "random"
    """choice of the samples, which never uses labels: random; k_centre = one after another the sample that is farthest
    from all chosen ones; balanced = the samples are grouped by KMeans into as many clusters as there are classes, and
    each cluster gives the same number of random samples, as far as it has them"""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")


def core_rows(x: npt.NDArray[Any], core: CoreSet, n_classes: int, seed: int) -> Int64:
    """Return the rows of a proxy set that a core set keeps.

    Args:
        x: proxy samples [P, ...]: pixels or other raw numbers, or features if the data have an extractor.
        core: size and rule.
        n_classes: number of classes C, which is the number of clusters of `balanced`.
        seed: of the run.

    Returns:
        int64 [size], ascending, so that the ids of the rows keep their order.

    Raises:
        UserError: if the proxy set has fewer rows.
    """
    if core.size > len(x):
        raise UserError(f"proxy.core.size={core.size}, but the proxy set has {len(x)} samples: set a smaller size")
    rng = make_rng(seed, Purpose.CORE_SET)
    if core.rule == "random":
        return np.sort(rng.permutation(len(x))[: core.size])
    flat = x.reshape(len(x), -1).astype(np.float32)
    flat -= flat.mean(0)  # distances by matrix product lose digits far from zero
    if core.rule == "k_centre":
        return np.sort(_k_centre(flat, core.size))
    return np.sort(_balanced(flat, core.size, n_classes, rng))


def _k_centre(x: Float32, size: int) -> Int64:
    """Choose rows by greedy k-centre (Gonzalez 1985): the first is nearest to the mean, each next one is the farthest.

    With these rows, the largest distance of any row to a chosen one is at most twice the smallest possible one.
    """
    squares = row_squares(x)
    chosen = [int(squares.argmin())]
    closest = squared_distances(x, x[chosen], squares)[:, 0]
    closest[chosen] = -1  # of equal rows, another one comes first
    while len(chosen) < size:
        chosen.append(int(closest.argmax()))
        np.minimum(closest, squared_distances(x, x[chosen[-1:]], squares)[:, 0], out=closest)
        closest[chosen[-1]] = -1
    return np.array(chosen, np.int64)


def _balanced(x: Float32, size: int, n_clusters: int, rng: np.random.Generator) -> Int64:
    """Choose the same number of random rows of each cluster, as far as it has them; small clusters first."""
    labels, _ = nearest(x, kmeans(x, n_clusters, rng)[0])
    members = sorted((rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)), key=len)
    chosen: list[Int64] = []
    for i, rows in enumerate(members):
        missing = size - sum(map(len, chosen))
        chosen.append(rows[: missing // (len(members) - i)])
    return np.concatenate(chosen)
