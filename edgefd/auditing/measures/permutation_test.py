"""Test whether scores tell members from non-members: all attacks, all clients and both ends of a ranking together.

Each statistic is standardised, and its largest absolute value over all statistics is compared with the same largest
value after memberships were drawn again (P. Westfall and S. Young, Resampling-Based Multiple Testing, 1993, maxT). The
adjusted p of a statistic is the share of such draws in which any statistic is as large. So at a level of 2.5 %, a set
of attacks that find nothing is called a leak in at most 2.5 % of all audits, however many attacks there are and however
they depend on each other. Nothing is assumed of the scores: only membership is random.

There are many more statistics of single clients than of all clients together. So that they do not hide a leak that all
clients have in part, the tail probability of a client's statistic is multiplied by the number of clients first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Bool, Float32, Float64, Int64

DRAWS = 999
_FIRST_END = 8
"""smallest number of records at an end of a ranking, because fewer can hardly differ from a draw"""
_LONGEST_RUN = 60
"""longest run of members, or of non-members, at an end; it has a probability of 1e-18"""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of several attacks on the same records: float64 [n, attacks], client int64 [n], member bool [n].

    Memberships are drawn again within each client. If `paired`, records i and i + n / 2 are one record as a member and
    as a non-member, and the two are exchanged at random.
    """

    values: Float64
    client: Int64
    member: Bool
    paired: bool = False


@dataclass(frozen=True)
class Statistic:
    """One statistic of the test."""

    table: int
    attack: int
    """column of the table"""
    client: int | None
    """None = all clients together"""
    kind: str
    """`auc`: the area under the ROC curve; `highest` or `lowest`: the members among the records at an end"""
    size: int
    """number of records at the end; all records for `auc`"""
    members: int
    """number of members among them"""
    z: float
    """standardised value; below 0 if members are fewer, or score lower, than by chance"""
    p: float
    """adjusted p: the probability that any statistic of the test is as large without a leak"""


def permutation_test(tables: Sequence[ScoreTable], rng: np.random.Generator, draws: int = DRAWS) -> list[Statistic]:
    """Return all statistics with their adjusted p, the most significant first."""
    found, largest = _observed_and_largest(tables, rng, draws)
    largest.sort()
    statistics = []
    for table, attack, client, kind, size, members, z in found:
        weighted = float(_weighted(np.array([abs(z)]), 1 if client is None else _n_clients(tables))[0])
        as_large = draws - int(np.searchsorted(largest, weighted - 1e-9))
        statistics.append(Statistic(table, attack, client, kind, size, members, z, (1 + as_large) / (1 + draws)))
    return sorted(statistics, key=lambda s: (s.p, -abs(s.z)))


def largest_without_a_leak(tables: Sequence[ScoreTable], rng: np.random.Generator, draws: int) -> Float64:
    """Return the largest statistic of each of some draws of membership, float64 [draws]: what the p are taken from."""
    return _observed_and_largest(tables, rng, draws)[1]


_Observed = tuple[int, int, int | None, str, int, int, float]
"""table, attack, client, kind, size, members and z of a `Statistic`"""


def _observed_and_largest(
    tables: Sequence[ScoreTable], rng: np.random.Generator, draws: int
) -> tuple[list[_Observed], Float64]:
    """Return the statistics of the observed memberships, and the largest statistic of each draw."""
    found, of_all, of_clients = [], np.zeros(draws), np.zeros(draws)
    for index, table in enumerate(tables):
        again = drawn_again(table, rng, draws)
        memberships = np.ascontiguousarray(np.concatenate([table.member[None], again]).T, np.float32)
        for attack, client, kind, size, counts, z in _statistics(table, memberships):
            largest = of_all if client is None else of_clients
            np.maximum(largest, np.abs(z[1:]), out=largest)
            found.append((index, attack, client, kind, size, int(counts[0]), float(z[0])))
    return found, np.maximum(of_all, _weighted(of_clients, _n_clients(tables)))


def _n_clients(tables: Sequence[ScoreTable]) -> int:
    return max((len(np.unique(table.client)) for table in tables), default=1)


def _weighted(z: Float64, groups: int) -> Float64:
    """Return the z whose tail probability is that of `z` times the number of groups; at least 0."""
    from scipy.stats import norm

    weighted: Float64 = norm.isf(np.minimum(0.5, np.maximum(norm.sf(z), 1e-300) * groups))
    return weighted


def drawn_again(table: ScoreTable, rng: np.random.Generator, draws: int) -> Bool:
    """Draw memberships as they could have been, bool [draws, n]: as many members of each client, or exchanged pairs."""
    n = len(table.member)
    if table.paired:
        first = rng.random((draws, n // 2)) < 0.5
        return np.concatenate([first, ~first], axis=1)
    memberships = np.zeros((draws, n), np.bool_)
    for client in np.unique(table.client):
        rows = np.flatnonzero(table.client == client)
        memberships[:, rows] = rng.permuted(np.tile(table.member[rows], (draws, 1)), axis=1)
    return memberships


_Found = tuple[int, int | None, str, int, npt.NDArray[np.floating], Float64]
"""attack, client, kind, size, and for each membership the number of members and the standardised value"""


def _statistics(table: ScoreTable, memberships: Float32) -> Iterator[_Found]:
    """Yield the statistics of all clients together, and of each client, for float32 [n, draws] memberships."""
    everybody = np.arange(len(table.member))
    groups: list[tuple[int | None, Int64]] = [(None, everybody)]
    clients = np.unique(table.client)
    if len(clients) > 1:
        groups += [(int(c), np.flatnonzero(table.client == c)) for c in clients]
    for client, rows in groups:
        members = int(table.member[rows].sum())
        if not 0 < members < len(rows):
            continue
        selected = memberships[rows]
        strata = table.client[rows] if client is None else np.zeros(len(rows), np.int64)
        for attack in range(table.values.shape[1]):
            for kind, size, counts, z in _of_ranking(table.values[rows, attack], selected, strata, table.paired):
                yield attack, client, kind, size, counts, z


_OfRanking = tuple[str, int, npt.NDArray[np.floating], Float64]
"""the same without attack and client"""


def _of_ranking(values: Float64, memberships: Float32, strata: Int64, paired: bool) -> Iterator[_OfRanking]:
    """Yield the statistics of one ranking: its area, and the members at both ends of several sizes."""
    from scipy.stats import rankdata

    n, members = len(values), int(memberships[:, 0].sum())
    ranks = rankdata(values)
    if np.ptp(ranks) == 0:
        return
    mean, spread = _moments(ranks, memberships[:, 0], strata, paired)
    if spread > 0:
        sums = (ranks - mean / members).astype(np.float32) @ memberships
        yield "auc", n, np.full(len(sums), float(members)), sums.astype(np.float64) / spread
    for kind, order in (("highest", -values), ("lowest", values)):
        rows = np.argsort(order, kind="stable")
        yield from _run(kind, rows[: _distinct(order[rows])], memberships, n, members)
        sizes = _sizes(order)
        if not sizes:
            continue
        rows = rows[: sizes[-1]]
        counts = np.add.reduceat(memberships[rows], [0, *sizes[:-1]], axis=0).cumsum(axis=0)
        for size, found in zip(sizes, counts, strict=True):
            yield kind, size, found, _standardised_counts(n, members, size)[found.astype(np.int64)]


def _distinct(ordered: Float64) -> int:
    """Return how many of the first values, at most `_LONGEST_RUN`, differ from all others."""
    equal = np.flatnonzero(np.diff(ordered[: _LONGEST_RUN + 1]) == 0)
    return int(equal[0]) if len(equal) else min(_LONGEST_RUN, len(ordered))


def _run(kind: str, rows: Int64, memberships: Float32, n: int, members: int) -> Iterator[_OfRanking]:
    """Yield the run of members, or of non-members, with which a ranking begins: records given away for sure."""
    if len(rows) <= _FIRST_END or len(rows) >= min(members, n - members):
        return
    first = memberships[rows[0]]
    other = memberships[rows] != first
    length = np.where(other.any(axis=0), other.argmax(axis=0), len(rows))
    scales = np.stack([_run_scale(n, k, len(rows)) for k in (n - members, members)])
    yield kind, int(length[0]), first * length, np.where(first > 0, 1, -1) * scales[first.astype(np.int64), length]


@lru_cache(maxsize=4096)
def _run_scale(n: int, k: int, longest: int) -> Float64:
    """Return for runs of 0, 1, ... of k records of one kind among n the z of their probability, float64."""
    from scipy.stats import norm

    i = np.arange(longest)
    log_p = np.concatenate([[0.0], np.cumsum(np.log(k - i) - np.log(n - i))])
    z: Float64 = norm.isf(np.minimum(0.5, np.exp(log_p)))
    return z


def _moments(ranks: Float64, member: Float32, strata: Int64, paired: bool) -> tuple[float, float]:
    """Return mean and standard deviation of the members' sum of ranks, when memberships are drawn again."""
    if paired and len(ranks) % 2 == 0:
        first, second = ranks[: len(ranks) // 2], ranks[len(ranks) // 2 :]
        return float((first + second).sum() / 2), float(np.sqrt(((first - second) ** 2).sum()) / 2)
    mean = variance = 0.0
    for stratum in np.unique(strata):
        of, n, k = ranks[strata == stratum], int((strata == stratum).sum()), float(member[strata == stratum].sum())
        mean += k * float(of.mean())
        variance += k * (n - k) / n * float(of.var(ddof=1)) if n > 1 else 0.0
    return mean, float(np.sqrt(variance))


def _sizes(order: Float64) -> list[int]:
    """Return sizes of the end with the smallest values, doubling, up to a quarter; equal values are never divided."""
    n = len(order)
    ordered = np.sort(order)
    wanted, sizes = _FIRST_END, set[int]()
    while wanted <= max(n // 4, _FIRST_END) and wanted < n:
        size = int(np.searchsorted(ordered, ordered[wanted - 1], "right"))
        if size > 2 * wanted:
            size = int(np.searchsorted(ordered, ordered[wanted - 1], "left"))
        if 0 < size < n:
            sizes.add(size)
        wanted *= 2
    return sorted(sizes)


@lru_cache(maxsize=4096)
def _standardised_counts(n: int, members: int, size: int) -> Float64:
    """Return for 0, 1, ... members among `size` records the z of the same two-sided tail probability, float64."""
    from scipy.stats import hypergeom, norm

    counts = np.arange(size + 1)
    more, fewer = hypergeom.sf(counts - 1, n, members, size), hypergeom.cdf(counts, n, members, size)
    z: Float64 = np.where(more < fewer, norm.isf(np.maximum(more, 1e-300)), -norm.isf(np.maximum(fewer, 1e-300)))
    return z


def exact_p(inside: Float64, outside: Float64, paired: bool = False) -> float:
    """Return the exact probability of so large an area under the ROC curve, or a larger one, without a leak.

    All ways to draw the members among the records are counted; for pairs, all exchanges. The distribution of the sum of
    the doubled ranks is built record by record, so it is for few records.

    >>> exact_p(np.array([3.0, 4.0]), np.array([1.0, 2.0]))
    0.16666666666666666
    """
    from scipy.stats import rankdata

    ranks = np.rint(2 * rankdata(np.concatenate([inside, outside]))).astype(np.int64)
    found, n = int(ranks[: len(inside)].sum()), len(inside)
    if paired:
        ways = np.zeros(int(ranks.sum()) + 1)
        ways[0] = 1
        for first, second in zip(ranks[:n], ranks[n:], strict=True):
            ways = (_moved(ways, int(first)) + _moved(ways, int(second))) / 2
        return float(min(1.0, ways[found:].sum()))
    by_count = np.zeros((n + 1, int(ranks.sum()) + 1))
    by_count[0, 0] = 1
    for rank in ranks.tolist():
        by_count[1:, rank:] += by_count[:-1, : by_count.shape[1] - rank].copy()
    return float(by_count[n, found:].sum() / by_count[n].sum())


def _moved(ways: Float64, by: int) -> Float64:
    return np.concatenate([np.zeros(by), ways[: len(ways) - by]])
