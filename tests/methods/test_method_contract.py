"""Properties that every method in edgefd/methods must have."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.knowledge import Knowledge, empty
from edgefd.core.seeding import Purpose
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.report import Report
from edgefd.federation.values import SOFT_LABELS
from edgefd.learners.batches import softmax
from edgefd.methods import get_method, method_names
from edgefd.rounds.client import client_round
from edgefd.rounds.loop import RoundResult, run_rounds
from edgefd.rounds.validation import expected_report, expected_teacher
from edgefd.runs.execute import make_server
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport
from edgefd.wire import messages as wire
from edgefd.wire.codecs import codec_for
from tests.support.expectations import sent_and_received
from tests.support.linear_clients import (
    CLASSES,
    LABELS,
    METHODS,
    PROXY,
    ROWS,
    Linear,
    acceptance,
    aggregated,
    in_round,
    new_clients,
    new_server,
    plan,
    play,
    with_methods,
)


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> Method:
    chosen: Method = request.param
    return chosen


def test_a_method_has_the_name_of_its_module_and_its_own_one_line_summary(method: Method) -> None:
    assert get_method(method.name) is method
    words = method.summary.split()
    assert len(words) >= 5, "a summary is a phrase"
    assert " ".join(words) == method.summary, "a summary is one line"
    assert not method.summary.endswith(".")
    assert method.name not in method.summary.lower(), "a summary says more than the name"
    assert [m.summary for m in METHODS].count(method.summary) == 1


def test_the_filter_returns_a_weight_for_every_proxy_row(method: Method) -> None:
    w = acceptance(method)
    assert w.shape == (ROWS,)
    assert w.dtype == np.float32
    assert ((w >= 0) & (w <= 1)).all()


def test_the_filter_repeats_to_the_bit(method: Method) -> None:
    assert np.array_equal(acceptance(method), acceptance(method))


@with_methods(m for m in METHODS if m.message.of_proxy_rows and m.values is SOFT_LABELS)
def test_uploads_are_finite_probabilities_for_extreme_logits(method: Method) -> None:
    learner = Linear()
    learner.predict_logits = lambda x: np.resize(np.array([[1000, -1000, 0, 0], [0] * 4], np.float32), (len(x), 4))
    for client in new_clients(method):
        k = method.upload(dataclasses.replace(client, learner=learner, acceptance=np.ones(ROWS, np.float32)))
        assert len(k) == ROWS
        assert k.values.dtype == np.float32
        assert np.isfinite(k.values).all()
        np.testing.assert_allclose(k.values.sum(1), 1, rtol=1e-5)


def test_rounds_repeat_to_the_bit(method: Method) -> None:
    (_, teachers, clients), (_, teachers_again, clients_again) = play(method, 3), play(method, 3)
    assert all(a.equals(b) for a, b in zip(teachers, teachers_again, strict=True))
    assert all(
        np.array_equal(a.learner.state()["model/w"], b.learner.state()["model/w"])
        for a, b in zip(clients, clients_again, strict=True)
    )


# With several teachers, each client receives its own: see the tests of those methods.
@with_methods(m for m in METHODS if m.message is not MessageKind.MULTI_TEACHER)
def test_renumbered_clients_give_the_same_teacher_up_to_rounding(method: Method) -> None:
    reports, _, _ = play(method, 1)
    renumbered = [dataclasses.replace(r, client=CLASSES - 1 - r.client) for r in reports[0]]
    a, b = (aggregated(method, sent) for sent in (reports[0], renumbered))
    assert np.array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.values, b.values, atol=1e-5)


def check_report(method: Method, report: Report, round: int) -> None:
    """Check that the server accepts a report in a round."""
    codec = new_server(method).terms.codec
    expected = expected_report(method, new_server(method).terms, plan(round))
    assert wire.decode_report(wire.encode_report(report, codec), expected).client == report.client


def test_messages_pass_the_checks_of_their_receivers(method: Method) -> None:
    reports, teachers, _ = play(method, 3)
    for r, (sent, teacher) in enumerate(zip(reports, teachers, strict=True)):
        for report in sent:
            check_report(method, report, r)
        terms = new_server(method).terms
        wire.decode(wire.encode(teacher, terms.codec), expected_teacher(method, terms, ROWS, CLASSES))


def test_a_float16_codec_changes_only_the_low_digits(method: Method) -> None:
    reports, teachers, _ = play(method, 2)
    for k in [*(r.knowledge for r in reports[1]), *teachers]:
        decoded = sent_and_received(k, "float16")
        assert np.array_equal(decoded.ids, k.ids)
        np.testing.assert_allclose(decoded.values, k.values, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(decoded.weights, k.weights, rtol=0.01)


@with_methods(m for m in METHODS if m.values.sums_to_one)
def test_simplex15_carries_the_messages_of_every_method_with_soft_labels(method: Method) -> None:
    reports, teachers, _ = play(method, 2)
    for k in [*(r.knowledge for r in reports[1]), *teachers]:
        decoded = sent_and_received(k, "simplex15")
        assert np.array_equal(decoded.ids, k.ids)
        np.testing.assert_allclose(decoded.values, k.values, atol=1.3 / 15)


# Other methods have no teacher that is a vote on the rows that were sent.
@with_methods(m for m in METHODS if m.exchanges and m.message is MessageKind.PROXY_LABELS and not m.server_model)
def test_the_teacher_of_a_single_upload_has_its_rows_and_its_most_likely_classes(method: Method) -> None:
    report = play(method, 2)[0][1][0]
    without_rows = dataclasses.replace(report, client=1, knowledge=empty(CLASSES))
    teacher = aggregated(method, [report, without_rows], round=1)
    upload = report.knowledge
    assert len(upload)
    assert np.array_equal(teacher.ids, upload.ids)
    assert np.array_equal(teacher.values.argmax(1), upload.values.argmax(1))
    if method.name in ("fedmd", "edgefd", "selective_fd"):
        np.testing.assert_allclose(teacher.values, upload.values, rtol=1e-6)


def test_the_teacher_of_reports_without_rows_has_no_rows(method: Method) -> None:
    reports = [Report(c, 0, empty(CLASSES)) for c in range(2)]
    assert len(aggregated(method, reports)) == 0


def test_clients_accept_a_teacher_without_rows(method: Method) -> None:
    for client in new_clients(method):
        report = client_round(method, in_round(client, 1), empty(CLASSES))
        check_report(method, report, 1)


def test_a_client_that_was_absent_can_use_the_teacher_of_the_others(method: Method) -> None:
    reports, _, clients = play(method, 1)
    report = client_round(method, in_round(clients[0], 1), aggregated(method, reports[0][1:]))
    check_report(method, report, 1)


def test_distillation_targets_are_probabilities_with_weights(method: Method) -> None:
    _, teachers, clients = play(method, 2)
    for client in clients:
        batch = method.distillation_targets(in_round(client, 2).draw(Purpose.DISTIL), teachers[-1])
        assert len(batch.x) == len(batch.targets) == len(batch.weights)
        np.testing.assert_allclose(batch.targets.sum(1), 1, rtol=1e-5)
        assert (batch.weights >= 0).all()
        assert batch.x.shape[1:] == PROXY.x.shape[1:]


def test_clients_learn_about_two_of_four_classes_or_more(method: Method) -> None:
    """Without an exchange, clients know their own two classes. Hardly any method makes that worse."""
    _, teachers, clients = play(method, 4)
    accuracies = []
    for client in clients:
        client_round(method, in_round(client, 4), teachers[-1])
        accuracies.append((client.learner.predict_logits(PROXY.x).argmax(1) == LABELS).mean())
    assert np.mean(accuracies) > 0.45


def small_config(method: str, workers: int) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 300},
            "partition": {"name": "weak", "n_clients": 5},
            "model": {"name": "mlp"},
            "method": {"name": method},
            "train": {"rounds": 2, "closing_epochs": 1},
            "run": {"workers": workers, "evaluate_every": 2},
        }
    )


def simulated(config: Config) -> tuple[list[RoundResult], list[np.ndarray]]:
    """Run a simulation: the results of its rounds, and the weights of a layer of each client at the end."""
    federation = prepare(config).federation
    transport = open_transport(config, federation)
    try:
        transport.start()
        results = list(run_rounds(make_server(config, federation), transport))
        return results, [s.learner.state()["model/fc1.weight"] for s in transport.state.clients]
    finally:
        transport.pool.close()


def size(knowledge: Knowledge, codec: str) -> int:
    """Return the bytes that are counted for knowledge: those of the wire format, or 0 without rows."""
    return len(wire.encode(knowledge, codec)) if len(knowledge) else 0


def test_counted_bytes_are_those_of_the_serialised_knowledge(method: Method) -> None:
    config = small_config(method.name, workers=0)
    codec = codec_for(config.codec.name, method.values, 10)
    results, models = simulated(config)
    for r in results[:-1]:
        assert r.exchange.bytes_up == sum(size(report.knowledge, codec) for report in r.exchange.reports)
    assert results[0].exchange.bytes_down == 0
    for before, after in pairwise(results):
        assert before.teacher is not None
        assert after.exchange.bytes_down == size(before.teacher, codec) * len(models)
    assert method.exchanges == (results[0].exchange.bytes_up > 0)


@pytest.mark.parametrize("name", ["edgefd", "comet", "fedavg"])
def test_worker_processes_change_no_bit(name: str) -> None:
    (serial, models), (forked, forked_models) = (simulated(small_config(name, workers)) for workers in (0, 2))
    for a, b in zip(serial, forked, strict=True):
        assert (a.exchange.bytes_up, a.exchange.bytes_down) == (b.exchange.bytes_up, b.exchange.bytes_down)
        assert a.teacher is not None
        assert b.teacher is not None
        assert a.teacher.equals(b.teacher)
    assert all(np.array_equal(a, b) for a, b in zip(models, forked_models, strict=True))


def test_softmax_of_large_logits_is_finite() -> None:
    assert np.isfinite(softmax(np.array([[1e30, -1e30]], np.float32))).all()


def test_every_module_without_a_leading_underscore_is_a_method() -> None:
    assert [m.name for m in METHODS] == list(method_names())
