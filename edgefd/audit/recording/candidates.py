"""Whose membership is asked for: records that a client trained on, and as many of its own that it held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, Federation

LEAST = 20
"""members, and non-members, without which no figure is printed"""
_MOST = 1000  # of a client's members: more make no interval visibly narrower, and cost time


@dataclass(frozen=True, eq=False)
class Candidates:
    """Records half of which a client trained on: x float32 [n, ...], y, client int64 [n], member bool [n].

    `row` int64 [n]: which of the client's records it is, those it trains on counted first, then those held out.
    """

    x: Float32
    y: Int64
    client: Int64
    member: Bool
    row: Int64


@dataclass(frozen=True, eq=False)
class Population:
    """Labelled records without any candidate, the adversary's own: x float32 [m, ...], y int64 [m]."""

    x: Float32
    y: Int64


def choose(federation: Federation, seed: int) -> tuple[Candidates, Population]:
    """Candidates of every client, and the population.

    Non-members are the client's own held-out records: nothing but a draw of lots sets them apart from its members,
    which cannot be said of a test set. Of each class there are as many members as non-members, so that no class
    tells the two apart; non-members that are bit for bit a member are left out. The population is half of the test set
    and the labelled proxy set, unless clients train on that.

    Raises:
        UserError: if fewer than `LEAST` members and non-members are left, or the population is smaller than that.
    """
    members = {row.tobytes() for data in federation.clients for row in data.x}
    parts = [
        _of_client(data, members, make_rng(seed, Purpose.AUDIT, AuditStream.CANDIDATES, data.client))
        for data in federation.clients
    ]
    fields = ("x", "y", "client", "member", "row")
    found = Candidates(*(np.concatenate([getattr(p, name) for p in parts]) for name in fields))
    if len(found.y) < 2 * LEAST:
        raise UserError(
            f"too few samples for membership inference: {len(found.y) // 2} held-out records can be set against "
            f"members of their class, {LEAST} are needed: run with a larger data.heldout, or use --level 0"
        )
    _, rest = _halves(federation, seed)
    population = _population(federation, rest)
    if len(population.y) < LEAST:
        raise UserError(f"too few samples: a population of {len(population.y)}, {LEAST} are needed; use --level 0")
    return found, population


def _of_client(data: ClientData, members: set[bytes], rng: np.random.Generator) -> Candidates:
    inside, outside = [], []
    distinct = np.array([row.tobytes() not in members for row in data.x_heldout])
    for c in np.unique(data.y):
        mine, held = np.flatnonzero(data.y == c), np.flatnonzero((data.y_heldout == c) & distinct)
        n = min(len(mine), len(held), max(1, round(_MOST * len(mine) / len(data.y))))
        inside.append(rng.permutation(mine)[:n])
        outside.append(rng.permutation(held)[:n])
    rows, out = np.concatenate(inside), np.concatenate(outside)
    return Candidates(
        np.concatenate([data.x[rows], data.x_heldout[out]]),
        np.concatenate([data.y[rows], data.y_heldout[out]]),
        np.full(2 * len(rows), data.client),
        np.arange(2 * len(rows)) < len(rows),
        np.concatenate([rows, len(data.x) + out]),
    )


def fresh_rows(federation: Federation, seed: int, share: float) -> list[Int64]:
    """Rows of the test set, of a half that is kept for this, dealt out: each to one client that has its class.

    A client gets an even number, at most 2 * `share` of its private records.
    """
    rows, _ = _halves(federation, seed)
    most = [2 * max(1, round(share * len(data.x))) for data in federation.clients]
    dealt: list[list[int]] = [[] for _ in most]
    for row in rows.tolist():
        able = [c for c in np.flatnonzero(federation.table[:, federation.y_test[row]]) if len(dealt[c]) < most[c]]
        if able:
            dealt[min(able, key=lambda c: len(dealt[c]))].append(row)
    return [np.array(d[: len(d) // 2 * 2], np.int64) for d in dealt]


def fresh_records(federation: Federation, seed: int, share: float) -> list[Float32]:
    """The records of those rows, which nobody has."""
    return [federation.x_test[rows] for rows in fresh_rows(federation, seed, share)]


def _halves(federation: Federation, seed: int) -> tuple[Int64, Int64]:
    """Of the test set, shuffled."""
    order = make_rng(seed, Purpose.AUDIT, AuditStream.TEST_SET_HALVES).permutation(len(federation.x_test))
    return order[: len(order) // 2], order[len(order) // 2 :]


def _population(federation: Federation, rest: Int64) -> Population:
    x, y = federation.x_test[rest], federation.y_test[rest]
    if federation.kept or federation.proxy_labels is None:
        return Population(x, y)
    return Population(np.concatenate([x, federation.proxy.x]), np.concatenate([y, federation.proxy_labels]))
