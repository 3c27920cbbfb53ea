"""What the hooks of a method receive: a generator for each purpose, round and client, and the learning rate."""

from dataclasses import replace

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.context import ClientContext, ServerContext, client_context
from edgefd.methods import get_method
from edgefd.rounds.client import client_round
from tests.support.linear_clients import CLIENTS, PROXY, ROWS, TERMS, TRAINING, Linear, in_round, new_clients, play
from tests.support.votes import report, server

FEDMD = get_method("fedmd")


def test_before_the_first_round_a_client_sees_all_rows_and_the_generator_of_its_filter() -> None:
    client = client_context(CLIENTS[2], Linear(), PROXY, np.ones(ROWS, np.float32), TERMS, None)
    assert np.array_equal(client.plan.ids, np.arange(ROWS))
    assert client.rng.random() == make_rng(TERMS.seed, Purpose.FILTER, 2).random()


def test_a_generator_depends_on_the_seed_the_purpose_the_round_the_client_and_further_keys() -> None:
    client = new_clients(FEDMD)[1]
    second = in_round(client, 2)
    assert second.draw(Purpose.TRAIN).rng.random() == make_rng(TERMS.seed, Purpose.TRAIN, 2, 1).random()
    assert second.draw(Purpose.TRAIN, 5).rng.random() == make_rng(TERMS.seed, Purpose.TRAIN, 2, 1, 5).random()
    others = [
        second,
        in_round(client, 3),
        in_round(new_clients(FEDMD)[0], 2),
        replace(second, terms=replace(second.terms, seed=8)),
    ]
    drawn = [c.draw(Purpose.TRAIN).rng.random() for c in others]
    assert len({*drawn, second.draw(Purpose.DISTIL).rng.random()}) == 5


def test_the_learning_rate_is_that_of_the_round() -> None:
    client = new_clients(FEDMD)[0]
    rates = [in_round(client, r).lr for r in range(TRAINING.rounds + 1)]
    assert rates == [TRAINING.lr_at(r) for r in range(TRAINING.rounds + 1)]
    assert rates[0] == TRAINING.lr
    assert rates[-1] == pytest.approx(TRAINING.final_lr)


def test_hooks_receive_the_generator_of_their_purpose() -> None:
    drawn: dict[str, float] = {}

    def local_step(ctx: ClientContext, batches: object) -> float:
        list(batches)  # the batches are drawn from the same generator
        return 0.0

    def targets(ctx: ClientContext, teacher: object) -> object:
        drawn["targets"] = ctx.rng.random()
        return FEDMD.distillation_targets(ctx, teacher)

    def upload(ctx: ClientContext) -> Knowledge:
        drawn["upload"] = ctx.rng.random()
        return FEDMD.upload(ctx)

    method = replace(FEDMD, local_step=local_step, distillation_targets=targets, upload=upload)
    _, teachers, clients = play(FEDMD, 1)
    for _ in range(2):  # a round that is repeated, or run by another process, draws the same numbers
        client_round(method, in_round(clients[3], 1), teachers[0])
        assert drawn["targets"] == make_rng(TERMS.seed, Purpose.DISTIL, 1, 3).random()
        assert drawn["upload"] == make_rng(TERMS.seed, Purpose.UPLOAD, 1, 3).random()


def test_the_uploads_of_a_server_are_the_knowledge_of_its_reports() -> None:
    reports = [report(0, [0], [[1, 0]]), report(1, [1], [[0, 1]])]
    context: ServerContext = server(reports)
    assert all(a is b.knowledge for a, b in zip(context.uploads, reports, strict=True))
    assert context.combine(context.uploads).ids.tolist() == [0, 1]
