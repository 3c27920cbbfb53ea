"""A simulated client of Flower that was absent: its state says how many rounds it missed, as in the local engine."""

import numpy as np
import pytest

pytest.importorskip("flwr")
from flwr.app import Context, RecordDict

from edgefd.core.knowledge import Knowledge
from edgefd.core.yaml_files import dump_yaml
from edgefd.federation.plan import RoundPlan
from edgefd.rounds.validation import expected_report
from edgefd.runs.evaluate import evaluation_ranges
from edgefd.runs.prepare import prepare
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import make_simulation_state, run_filter, run_round
from edgefd.simulation.ray_client import simulated_round
from edgefd.wire import messages as wire
from tests.support.small_runs import config


def test_a_node_of_a_cluster_needs_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The federation comes from the object store, whose arrays cannot be written."""
    c = config(seed=7)
    federation = prepare(c).federation
    data = federation.clients[0]
    for array in (data.x, data.y, data.x_heldout, data.y_heldout, federation.proxy.x, federation.x_test):
        array.flags.writeable = False
    monkeypatch.setattr("edgefd.simulation.ray_client.prepare", lambda _: pytest.fail("the data are not here"))
    monkeypatch.setattr("ray.get", {"reference": federation}.__getitem__)
    plan = RoundPlan(0, np.arange(len(federation.proxy)))
    node = Context(run_id=1, node_id=1, node_config={"partition-id": 0}, state=RecordDict(), run_config={})
    body = {"config": dump_yaml(c.to_dict()), "plan": wire.encode_plan(plan)}
    assert simulated_round(body, node, "reference")["report"]


def test_the_state_of_a_node_keeps_the_key_of_its_noise() -> None:
    """The next round can be in another process, or on another machine after this one has died."""
    private = {"defence": {"name": "pate"}, "proxy": {"source": "public"}, "method": {"name": "fedmd"}}
    c = config(**private)
    federation = prepare(c).federation
    n, sent = len(federation.proxy), []
    for _ in range(2):
        node = Context(run_id=1, node_id=1, node_config={"partition-id": 0}, state=RecordDict(), run_config={})
        for round in (0, 1):
            plan = RoundPlan(round, np.arange(n))
            body = {"config": dump_yaml(c.to_dict()), "plan": wire.encode_plan(plan)}
            reply = simulated_round(body, node)
            assert isinstance(reply["report"], bytes)
            expected = expected_report(c.method, terms_of(c, federation), plan, evaluation_ranges(10, 10**4))
            sent.append(wire.decode_report(reply["report"], expected).knowledge)
    assert sent[0].equals(sent[1])
    assert sent[2].equals(sent[3])
    assert not sent[0].equals(sent[2])


@pytest.mark.parametrize("catch_up", [1, 3])
def test_a_client_that_was_absent_reports_the_same_over_flower_and_in_the_local_engine(catch_up: int) -> None:
    c = config(train={"rounds": 4, "catch_up": catch_up})
    federation = prepare(c).federation
    local, codec = make_simulation_state(c, federation), terms_of(c, federation).codec
    run_filter(local, 0)
    node = Context(run_id=1, node_id=1, node_config={"partition-id": 0}, state=RecordDict(), run_config={})
    n, ranges = len(federation.proxy), evaluation_ranges(federation.n_classes, len(federation.x_test))
    values = np.eye(10, dtype=np.float32)[np.arange(n) % 10]
    teacher = wire.encode(Knowledge(np.arange(n), values, np.ones(n, np.float32)), codec)
    for round in (0, 3):
        plan = RoundPlan(round, np.arange(n))
        body = {"config": dump_yaml(c.to_dict()), "plan": wire.encode_plan(plan)} | (
            {"teacher": teacher} if round else {}
        )
        reply = simulated_round(body, node)
        assert isinstance(reply["report"], bytes)
        report = wire.decode_report(reply["report"], expected_report(c.method, terms_of(c, federation), plan, ranges))
        knowledge, metrics, _ = run_round(local, 0, plan, teacher if round else None)
        assert wire.encode(report.knowledge, codec) == knowledge
        assert report.metrics == metrics
