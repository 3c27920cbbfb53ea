"""Attackers: their acceptance weights and reports in simulations, and the errors of inconsistent configs."""

from typing import Any

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import Method
from edgefd.federation.progress import Progress
from edgefd.federation.report import Report
from edgefd.methods import get_method
from edgefd.poisoning.attacks import Attack, attackers, poisoned
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.server import make_plan
from edgefd.runs.execute import make_server
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

OWN = Method(name="own", summary="an aggregate of its own", aggregate=lambda ctx: ctx.uploads[0])


def config(**sections: Any) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": 4},
            "model": {"name": "mlp"},
            "method": {"name": "edgefd", "n_clusters": 4},
            "train": {"rounds": 2},
            "run": {"workers": 0},
        }
        | sections
    )


def first_exchange(c: Config) -> list[Report]:
    federation = prepare(c).federation
    transport = open_transport(c, federation)
    transport.start()
    try:
        plan, sampled = make_plan(make_server(c, federation), Progress())
        return list(transport.exchange(plan, sampled, None).reports)
    finally:
        transport.pool.close()


def report(client: int = 0) -> Report:
    values = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], np.float32)
    return Report(client, 3, Knowledge(np.array([2, 5]), values, np.array([0.5, 0.25], np.float32)), {"accuracy": 0.5})


def test_each_attack_sends_its_labels_with_weight_one() -> None:
    def sent(name: Any, client: int = 0, round: int = 3) -> np.ndarray:
        result = poisoned(report(client), Attack(name, clients=(0, 1)), seed=4)
        assert result.metrics == {"accuracy": 0.5}
        assert result.knowledge.weights.tolist() == [1, 1]
        assert result.knowledge.ids.tolist() == [2, 5]
        return result.knowledge.values

    assert np.array_equal(sent("label_flip"), report().knowledge.values[:, ::-1])
    assert sent("constant").tolist() == [[1, 0, 0], [1, 0, 0]]
    for name in ("random", "colluding"):
        assert (sent(name).sum(1) == 1).all()
        assert (sent(name).max(1) == 1).all()
        assert np.array_equal(sent(name), sent(name))
    assert np.array_equal(sent("colluding", 0), sent("colluding", 1))


def test_random_attackers_send_different_labels() -> None:
    n = 200
    k = Knowledge(np.arange(n), np.full((n, 10), 0.1, np.float32), np.ones(n, np.float32))
    attack = Attack("random", clients=(0, 1))
    a, b, later = (poisoned(Report(c, r, k), attack, 0).knowledge.values for c, r in ((0, 0), (1, 0), (0, 1)))
    for other in (b, later):
        assert 0.02 < (a.argmax(1) == other.argmax(1)).mean() < 0.25


def test_a_fraction_of_attackers_is_drawn_by_the_seed() -> None:
    attack = Attack("random", fraction=0.2)
    groups = [attackers(attack, 10, seed) for seed in range(5)]
    assert all(len(group) == 2 for group in groups)
    assert len(set(groups)) > 1
    assert groups[0] == attackers(attack, 10, 0)
    assert attackers(Attack(), 10, 0) == frozenset()


@pytest.mark.parametrize("workers", [0, 2])
def test_attackers_accept_every_row_and_honest_reports_do_not_change(workers: int) -> None:
    run = {"workers": workers}
    honest = first_exchange(config(run=run))
    attacked = first_exchange(config(run=run, attack={"name": "constant", "clients": [2]}))
    n = len(prepare(config()).federation.proxy)
    for before, after in zip(honest, attacked, strict=True):
        if after.client == 2:
            assert len(before.knowledge) < len(after.knowledge) == n
            assert (after.knowledge.values.argmax(1) == 0).all()
            assert (after.knowledge.weights == 1).all()
        else:
            assert before.knowledge.equals(after.knowledge)
        assert before.metrics == after.metrics


def test_clients_of_reference_methods_send_no_rows_under_attack() -> None:
    c = config(attack={"name": "constant", "clients": [0]}, baselines=["indlearn", "centralised"])
    for name in c.baselines:
        assert all(len(r.knowledge) == 0 for r in first_exchange(c.for_method(name)))


def test_the_aggregator_reaches_the_server_and_changes_the_teacher() -> None:
    results = {}
    for name in ("mean", "median", "distance"):
        c = config(aggregator={"name": name})
        federation = prepare(c).federation
        transport = open_transport(c, federation)
        transport.start()
        results[name] = next(run_rounds(make_server(c, federation), transport)).teacher
    assert results["mean"] is not None
    assert not results["mean"].equals(results["median"])
    assert not results["mean"].equals(results["distance"])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"aggregator": {"name": "meen"}}, "aggregator.name: Input should be 'mean', 'median'"),
        ({"aggregator": {"name": "trimmed_mean", "trim": 0.5}}, "trim must be at least 0 and below 0.5"),
        ({"attack": {"name": "random"}}, "needs a name other than none, and clients or a fraction above 0"),
        ({"attack": {"clients": [0]}}, "needs a name other than none"),
        ({"attack": {"name": "random", "clients": [0], "fraction": 0.2}}, "clients or fraction, not both"),
        ({"attack": {"name": "random", "fraction": 1.5}}, r"fraction must be in \[0, 1\]"),
        ({"attack": {"name": "random", "clients": [1, 1]}}, "different numbers"),
        ({"attack": {"name": "random", "clients": [0]}, "method": {"name": "indlearn"}}, "nothing that could be"),
    ],
)
def test_inconsistent_configs_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**sections)


def test_an_attacker_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="names client 4, but the clients are 0 to 3"):
        prepare(config(attack={"name": "random", "clients": [4]}))


def test_a_method_with_its_own_aggregate_refuses_another_aggregator() -> None:
    own = f"{__name__}:OWN"
    assert config(method={"name": own}).method is OWN
    with pytest.raises(UserError, match=r"has its own aggregation rule .*label_aggregation\): remove the section"):
        config(method={"name": own}, aggregator={"name": "median"})
    with pytest.raises(UserError, match="has its own aggregation rule"):
        config(baselines=[own], aggregator={"name": "median"})


def test_the_resolved_config_parses_to_itself() -> None:
    c = config(attack={"name": "random", "clients": [0, 1]}, aggregator={"name": "distance", "one_vote": True})
    assert parse_config(c.to_dict()) == c
    assert config().method is get_method("edgefd")


@pytest.mark.slow
def test_the_recommended_aggregator_keeps_the_accuracy_that_the_mean_loses() -> None:
    """A small version of docs/guides/poisoning.md: it loses at most 3 points where the mean loses more than 30."""

    def accuracy(rule: dict[str, Any], attacking: list[int]) -> float:
        attack = {"name": "constant", "clients": attacking} if attacking else {"name": "none"}
        sections = {"aggregator": rule, "attack": attack, "partition": {"name": "weak"}, "model": {"name": "mlp"}}
        quick = {"train": {"rounds": 6, "augment_shift": 2}, "run": {"workers": 0, "evaluate_every": 20}}
        prepared = prepare(parse_config(sections | quick))
        *_, last = simulate(open_transport(prepared.config, prepared.federation))
        assert last.accuracy_mean is not None
        return last.accuracy_mean

    robust = {"name": "distance", "one_vote": True}
    without_attack = accuracy({"name": "mean"}, [])
    assert accuracy({"name": "mean"}, [0, 5]) < without_attack - 0.3
    assert accuracy(robust, [0, 5]) > without_attack - 0.03
