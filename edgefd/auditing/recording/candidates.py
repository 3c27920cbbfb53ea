"""Choose the records whose membership is tested: training records of a client, and as many of its held-out records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, Federation

LEAST = 20
"""smallest number of members, and of non-members, for which a figure is reported"""
_MOST = 1000  # members of one client; more do not narrow an interval visibly, and cost time


@dataclass(frozen=True, eq=False)
class Candidates:
    """Records of which a client trained on half: x float32 [n, ...], y, client int64 [n], member bool [n].

    `row` int64 [n]: index of the record among the client's records, training records first, then held-out ones.
    """

    x: Float32
    y: Int64
    client: Int64
    member: Bool
    row: Int64


@dataclass(frozen=True, eq=False)
class Population:
    """Labelled records of the adversary's own, without any candidate: x float32 [m, ...], y int64 [m]."""

    x: Float32
    y: Int64


def choose(federation: Federation, seed: int) -> tuple[Candidates, Population]:
    """Choose the candidates of every client, and the adversary's population.

    Non-members are the client's own held-out records: only a random draw separates them from the members, which is not
    true of a test set. Each class has as many members as non-members, so that the class does not reveal membership.
    Non-members that are equal to a member, bit for bit, are left out. The population is half of the test set and the
    labelled proxy set, unless clients train on the proxy set; records that are equal to a candidate are left out.

    Raises:
        UserError: if fewer than `LEAST` members and non-members are left, or the population is smaller than that.
    """
    members = {row.tobytes() for data in federation.clients for row in data.x}
    parts = [
        _of_client(data, members, make_rng(seed, Purpose.AUDIT, AuditStream.CANDIDATES, data.client))
        for data in federation.clients
    ]
    fields = ("x", "y", "client", "member", "row")
    candidates = Candidates(*(np.concatenate([getattr(p, name) for p in parts]) for name in fields))
    if len(candidates.y) < 2 * LEAST:
        raise UserError(
            f"too few samples for membership inference: {len(candidates.y) // 2} held-out records can be compared with "
            f"members of their class, {LEAST} are needed: run with a larger data.heldout, or use --level 0"
        )
    _, rest = _halves(federation, seed)
    x, y = federation.x_test[rest], federation.y_test[rest]
    if not federation.kept and federation.proxy_labels is not None:
        x, y = np.concatenate([x, federation.proxy.x]), np.concatenate([y, federation.proxy_labels])
    tested = {row.tobytes() for row in candidates.x}
    other = np.array([row.tobytes() not in tested for row in x], np.bool_)
    population = Population(x[other], y[other])
    if len(population.y) < LEAST:
        raise UserError(f"too few samples: a population of {len(population.y)}, {LEAST} are needed; use --level 0")
    return candidates, population


def _of_client(data: ClientData, members: set[bytes], rng: np.random.Generator) -> Candidates:
    inside, outside = [], []
    distinct = np.array([row.tobytes() not in members for row in data.x_heldout])
    for c in np.unique(data.y):
        trained, held = np.flatnonzero(data.y == c), np.flatnonzero((data.y_heldout == c) & distinct)
        n = min(len(trained), len(held), max(1, round(_MOST * len(trained) / len(data.y))))
        inside.append(rng.permutation(trained)[:n])
        outside.append(rng.permutation(held)[:n])
    rows, held_rows = np.concatenate(inside), np.concatenate(outside)
    return Candidates(
        np.concatenate([data.x[rows], data.x_heldout[held_rows]]),
        np.concatenate([data.y[rows], data.y_heldout[held_rows]]),
        np.full(2 * len(rows), data.client),
        np.arange(2 * len(rows)) < len(rows),
        np.concatenate([rows, len(data.x) + held_rows]),
    )


def fresh_rows(federation: Federation, seed: int, share: float) -> list[Int64]:
    """Assign rows of the test set to clients, from a half that is reserved for this: each to one client of its class.

    A client gets an even number, at most 2 * `share` of the number of its private records.
    """
    rows, _ = _halves(federation, seed)
    most = [2 * max(1, round(share * len(data.x))) for data in federation.clients]
    assigned: list[list[int]] = [[] for _ in most]
    for row in rows.tolist():
        eligible = [
            c for c in np.flatnonzero(federation.table[:, federation.y_test[row]]) if len(assigned[c]) < most[c]
        ]
        if eligible:
            assigned[min(eligible, key=lambda c: len(assigned[c]))].append(row)
    return [np.array(rows[: len(rows) // 2 * 2], np.int64) for rows in assigned]


def fresh_records(federation: Federation, seed: int, share: float) -> list[Float32]:
    """Return the records of `fresh_rows`, which no client holds."""
    return [federation.x_test[rows] for rows in fresh_rows(federation, seed, share)]


def _halves(federation: Federation, seed: int) -> tuple[Int64, Int64]:
    """Split the shuffled rows of the test set into two halves."""
    order = make_rng(seed, Purpose.AUDIT, AuditStream.TEST_SET_HALVES).permutation(len(federation.x_test))
    return order[: len(order) // 2], order[len(order) // 2 :]
