"""Defences in runs: same bits in workers, bytes on the wire, epsilon in summaries, and refused combinations."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefd.config.load import load_config, parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.poisoning.robust_aggregation import Aggregator, aggregate_of
from edgefd.rounds.loop import RoundResult, run_rounds
from edgefd.rounds.server import make_plan
from edgefd.rounds.validation import expected_report
from edgefd.runs.deployable import check_deployable
from edgefd.runs.execute import execute_run, make_server
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import prepare
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import open_transport, simulate
from edgefd.wire import messages as wire
from tests.support.configs import PRIVATE


def run_all_rounds(config: Config) -> list[RoundResult]:
    federation = prepare(config).federation
    transport = open_transport(config, federation)
    transport.start()
    try:
        return list(run_rounds(make_server(config, federation), transport))
    finally:
        transport.pool.close()


def config(**sections: Any) -> Config:
    return parse_config(PRIVATE | {"defence": {"name": "none"}, "train": {"rounds": 2}} | sections)


def seeded(name: str) -> dict[str, Any]:
    return {"name": name} | ({} if name == "top_k" else {"seed": 1})


@pytest.mark.parametrize("name", ["dp_sgd", "noise", "pate"])
def test_the_seed_of_a_run_does_not_determine_its_noise_and_clients_send_no_metric_without_noise(name: str) -> None:
    small = {"data": {"name": "mnist_mini", "limit": 200}, "partition": {"name": "iid", "n_clients": 1}}
    private = parse_config(PRIVATE | small | {"model": {"name": "linear"}, "defence": {"name": name}})
    results = [run_all_rounds(private) for _ in range(2)]
    sent = [rounds[0].exchange.reports[0].knowledge for rounds in results]
    assert not sent[0].equals(sent[1])
    for report in (report for rounds in results for result in rounds for report in result.exchange.reports):
        assert not report.metrics.keys() & {"heldout_accuracy", "train_loss", "distil_loss"}
        assert "accuracy" in report.metrics  # of the test set, which only a simulation has
    terms = terms_of(private, prepare(private).federation)
    with pytest.raises(ValueError, match="train_loss"):
        expected_report(private.method, terms, RoundPlan(0, np.arange(1))).check_metrics({"train_loss": 1.0})


@pytest.mark.parametrize("selection", ["random", "pcoreset"])
def test_a_row_that_is_queried_again_has_the_same_vote(selection: str) -> None:
    rule, train = {"name": selection, "budget": 0.7}, {"rounds": 3, "distill_epochs": 1}
    pate = config(selection=rule, defence={"name": "pate"}, train=train, model={"name": "linear"})
    labels: dict[tuple[int, int], list[int]] = {}
    for result in run_all_rounds(pate):
        for report in result.exchange.reports:
            for row, label in zip(report.knowledge.ids, report.knowledge.values.argmax(1), strict=True):
                labels.setdefault((report.client, int(row)), []).append(int(label))
    assert max(map(len, labels.values())) > 1
    assert all(len(set(sent)) == 1 for sent in labels.values())


@pytest.mark.parametrize("name", ["dp_sgd", "noise", "pate", "top_k"])
def test_workers_and_one_process_give_the_same_bits(name: str) -> None:
    serial, forked = (
        run_all_rounds(parse_config(PRIVATE | {"defence": seeded(name), "run": {"workers": w}})) for w in (0, 2)
    )
    for a, b in zip(serial, forked, strict=True):
        assert a.teacher is not None
        assert b.teacher is not None
        assert a.teacher.equals(b.teacher)


def test_bytes_are_counted_after_the_defence() -> None:
    plain, few, labels = (
        run_all_rounds(config(defence=d, codec={"name": "float16"}))[0].exchange
        for d in ({}, {"name": "top_k", "k": 2}, {"name": "label_only"})
    )
    for exchange in (plain, few, labels):
        assert exchange.bytes_up == sum(len(wire.encode(r.knowledge, "float16")) for r in exchange.reports)
    assert labels.bytes_up < few.bytes_up < plain.bytes_up / 2
    for a, b in zip(plain.reports, few.reports, strict=True):
        assert np.array_equal(a.knowledge.values.argmax(1), b.knowledge.values.argmax(1))
        np.testing.assert_allclose(a.knowledge.values.max(1), b.knowledge.values.max(1))
        assert (np.sort(b.knowledge.values)[:, :-2] == b.knowledge.values.min(1, keepdims=True)).all()


def test_the_summary_of_a_run_holds_the_claimed_epsilon_and_delta(tmp_path: Path) -> None:
    summaries = {}
    pate = {"name": "pate", "epsilon": 3.0, "delta": 1e-6}
    for name, defence in (("none", {}), ("pate", pate), ("known", pate | {"seed": 5})):
        prepared = prepare(config(defence=defence, run={"workers": 0, "evaluate_every": 9}))
        (tmp_path / name).mkdir()
        rounds_of = functools.partial(simulate, open_transport(prepared.config, prepared.federation))
        summaries[name] = execute_run(prepared.config, prepared.facts, tmp_path / name, lambda r: r, rounds_of)
        assert load_config(tmp_path / name / "config.yaml") == prepared.config
    assert (summaries["none"]["epsilon_claimed"], summaries["none"]["delta_claimed"]) == (None, None)
    assert (summaries["pate"]["epsilon_claimed"], summaries["pate"]["delta_claimed"]) == (3.0, 1e-6)
    assert (summaries["known"]["epsilon_claimed"], summaries["known"]["noise_seed"]) == (None, 5)
    assert (summaries["pate"]["noise_seed"], summaries["pate"]["heldout_accuracy_mean"]) == (None, None)


def test_a_client_that_accepts_no_row_sends_no_row_with_a_defence() -> None:
    pate = config(defence={"name": "pate"})
    federation = prepare(pate).federation
    transport = open_transport(pate, federation)
    transport.filtered.update(range(4))  # no filter runs: no row is accepted
    plan, sampled = make_plan(make_server(pate, federation), Progress())
    reports = transport.exchange(plan, sampled, None).reports
    assert [len(r.knowledge) for r in reports] == [0] * 4


def test_rows_with_too_few_voters_are_not_in_the_teacher() -> None:
    rows, ones = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    a, b, c = (Knowledge(np.array(ids), rows[: len(ids)], ones[: len(ids)]) for ids in ([0, 1, 2], [1, 2], [2, 5]))
    assert aggregate_of(Aggregator(min_voters=2))([a, b, c]).ids.tolist() == [1, 2]
    assert aggregate_of(Aggregator(min_voters=4))([a, b, c]).ids.tolist() == []
    both = aggregate_of(Aggregator(min_voters=2, one_vote=True))([a, b])
    assert both.equals(aggregate_of(Aggregator(one_vote=True))([Knowledge(a.ids[1:], a.values[1:], ones[:2]), b]))
    edgefd = config(method={"name": "edgefd", "n_clusters": 4}, aggregator={"min_voters": 2})
    first = run_all_rounds(edgefd)[0]
    votes = np.zeros(len(prepare(edgefd).federation.proxy), int)
    for report in first.exchange.reports:
        votes[report.knowledge.ids] += 1
    assert first.teacher is not None
    assert np.array_equal(first.teacher.ids, np.flatnonzero(votes >= 2))
    assert (votes == 1).any()


def test_devices_refuse_initial_parameters_of_their_own() -> None:
    with pytest.raises(UserError, match=r"train.initial=own is for simulations"):
        check_deployable(parse_config({"train": {"initial": "own"}}))


@pytest.mark.parametrize(
    ("defence", "message"),
    [({"name": "dp_sgd"}, "needs torch"), ({"name": "pate", "seed": 1}, "could subtract the noise")],
)
def test_devices_and_coordinators_refuse_defences_without_effect_there(
    defence: dict[str, Any], message: str, tmp_path: Path
) -> None:
    private = parse_config(PRIVATE | {"defence": defence})
    with pytest.raises(UserError, match=message):
        check_deployable(private)
    with pytest.raises(UserError, match=message):
        export_config(private, None, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"defence": {"name": "topk"}}, "defence.name: unknown defence 'topk': did you mean 'top_k'"),
        ({"defence": {"name": "top_k", "shards": 3}}, "defence.shards is for name=pate, not top_k"),
        ({"defence": {"name": "label_only"}, "method": {"name": "fkd"}}, "method fkd sends none"),
        ({"aggregator": {"min_voters": 0}}, "min_voters must be at least 1"),
        ({"codec": {"name": "uint4"}, "method": {"name": "fedavg"}}, "uint4 carries numbers from 0 to 1"),
    ],
)
def test_invalid_defences_and_combinations_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**sections)


def test_an_override_of_the_defence_name_removes_the_settings_of_the_old_defence(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("defence: {name: top_k, k: 2, calibrate: true}\n")
    assert load_config(path, ["defence.name=label_only"]).defence.name == "label_only"
