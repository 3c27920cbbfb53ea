"""What every method in edgefd/methods must hold, whatever it does."""

import dataclasses
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.plan import RoundPlan, Training
from edgefd.federation.report import Report
from edgefd.federation.state import ClientState, Server
from edgefd.learners.batches import Batch, softmax
from edgefd.methods import get_method, method_names
from edgefd.rounds.client import client_round
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.server import server_round
from edgefd.rounds.validation import check_report, check_teacher
from edgefd.runs.execute import make_plans, make_server_state
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import InProcess, open_transport
from edgefd.wire import messages as wire

CLASSES, ROWS = 4, 60
NUMBERS = np.random.default_rng(0)
MEANS = 4 * np.eye(CLASSES, 6)


class Linear:
    """A learner of 6 numbers a sample: softmax regression by plain gradient descent."""

    def __init__(self) -> None:
        self.w = np.zeros((6, CLASSES), np.float32)

    def train(self, batches: Iterable[Batch], lr: float) -> float:
        losses = []
        for b in batches:
            p, shares = softmax(b.x @ self.w), b.weights / b.weights.sum()
            losses.append(float(-(np.log(p + 1e-9) * b.targets).sum(1) @ shares))
            self.w = self.w - np.float32(lr) * b.x.T @ ((p - b.targets) * shares[:, None])
        return float(np.mean(losses)) if losses else 0.0

    def predict_logits(self, x: np.ndarray) -> np.ndarray:
        return (x @ self.w).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"model/w": self.w.copy(), "optimizer/step": np.ones((), np.float32)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.w = state["model/w"].copy()


def client(i: int) -> ClientData:
    """Classes i and i + 1, so that each is with two clients."""
    y = np.repeat([i, (i + 1) % CLASSES], 20)[NUMBERS.permutation(40)]
    x = NUMBERS.normal(MEANS[y], 1, (40, 6)).astype(np.float32)
    contributed = np.arange(15 * i, 15 * i + 15)
    return ClientData(client=i, x=x[:30], y=y[:30], x_heldout=x[30:], y_heldout=y[30:], contributed=contributed)


CLIENTS = [client(i) for i in range(CLASSES)]
LABELS = np.repeat(np.arange(CLASSES), 15)
PROXY = ProxySet(x=NUMBERS.normal(MEANS[LABELS], 1, (ROWS, 6)).astype(np.float32), owner=LABELS)
TRAINING = Training(rounds=4, local_steps=3, batch_size=16, private_rows_per_batch=4, optimizer="sgd", lr=0.05)


@pytest.fixture(params=method_names())
def method(request: pytest.FixtureRequest) -> Method:
    return get_method(request.param)


def acceptance(method: Method, i: int = 0) -> np.ndarray:
    return method.client_filter(CLIENTS[i], PROXY, method.config(), np.random.default_rng(5))


def states(method: Method) -> list[ClientState]:
    return [ClientState(data, Linear(), CLASSES, acceptance(method, data.client)) for data in CLIENTS]


def plan(round: int) -> RoundPlan:
    return RoundPlan(7, round, np.arange(ROWS), TRAINING)


def server(method: Method) -> Server:
    return Server(PROXY, CLASSES, LABELS if method.proxy_labels else None, Linear() if method.server_model else None)


def play(method: Method, rounds: int, order: int = 1) -> tuple[list[list[Report]], list[Knowledge], list[ClientState]]:
    """Rounds from the start: the reports and the teacher of each, and the clients after them."""
    clients, teacher, reports, teachers, there = states(method), None, [], [], server(method)
    for r in range(rounds):
        asked = [client_round(method, method.config(), s, PROXY, plan(r), teacher) for s in clients]
        teacher = server_round(method, method.config(), asked[::order], plan(r), teacher, there)
        reports.append(asked)
        teachers.append(teacher)
    return reports, teachers, clients


def test_it_describes_itself(method: Method) -> None:
    assert method.name in method_names()
    assert 10 < len(method.summary) < 120


def test_the_filter_gives_a_weight_a_row(method: Method) -> None:
    w = acceptance(method)
    assert w.shape == (ROWS,)
    assert w.dtype == np.float32
    assert ((w >= 0) & (w <= 1)).all()


def test_the_filter_repeats(method: Method) -> None:
    assert np.array_equal(acceptance(method), acceptance(method))


def test_what_is_sent_is_finite_soft_labels(method: Method) -> None:
    logits = np.array([[1000, -1000, 0, 0], [0, 0, 0, 0]], np.float32)
    values = method.extract(logits, method.config())
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values.sum(1), 1, rtol=1e-5)


def test_rounds_repeat_to_the_bit(method: Method) -> None:
    (_, once, clients), (_, again, others) = play(method, 3), play(method, 3)
    assert all(a.equals(b) for a, b in zip(once, again, strict=True))
    assert all(
        np.array_equal(a.learner.state()["model/w"], b.learner.state()["model/w"])
        for a, b in zip(clients, others, strict=True)
    )


def test_the_order_of_reports_changes_no_bit(method: Method) -> None:
    assert play(method, 3)[1][-1].equals(play(method, 3, order=-1)[1][-1])


def test_the_order_of_clients_does_not_matter_beyond_rounding(method: Method) -> None:
    reports, _, _ = play(method, 1)
    turned = [dataclasses.replace(r, client=CLASSES - 1 - r.client) for r in reports[0]]
    if method.message is MessageKind.MULTI_TEACHER:
        return  # what each client is sent is its own there: see the method's own tests
    a, b = (server_round(method, method.config(), rs, plan(0), None, server(method)) for rs in (reports[0], turned))
    assert np.array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.values, b.values, atol=1e-5)


def test_messages_pass_the_checks_of_their_receivers(method: Method) -> None:
    reports, teachers, _ = play(method, 3)
    for r, (asked, teacher) in enumerate(zip(reports, teachers, strict=True)):
        for report in asked:
            check_report(method, report, plan(r), range(CLASSES), CLASSES)
        check_teacher(method, teacher, ROWS, CLASSES)


def test_a_row_of_something_else_is_refused(method: Method) -> None:
    one = np.ones((1, CLASSES), np.float32) / CLASSES
    strange = Report(0, 0, Knowledge(np.array([ROWS]), one, np.ones(1, np.float32)))
    with pytest.raises(ValueError, match="does not query"):
        check_report(method, strange, plan(0), range(CLASSES), CLASSES)


def test_the_codec_changes_only_the_low_digits(method: Method) -> None:
    reports, teachers, _ = play(method, 2)
    for k in [*(r.knowledge for r in reports[1]), *teachers]:
        back = wire.decode(wire.encode(k, "float16"))
        assert np.array_equal(back.ids, k.ids)
        np.testing.assert_allclose(back.values, k.values, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(back.weights, k.weights, rtol=0.01)


def test_the_teacher_of_one_upload_has_its_rows_and_its_opinion(method: Method) -> None:
    if method.message is not MessageKind.PROXY_LABELS or method.server_model:
        return  # there the teacher is no vote on the rows sent
    one = play(method, 2)[0][1][0]
    silent = dataclasses.replace(one, client=1, knowledge=empty(CLASSES))
    result = server_round(method, method.config(), [one, silent], plan(1), None, server(method))
    k = one.knowledge
    assert np.array_equal(result.ids, k.ids)
    assert np.array_equal(result.values.argmax(1), k.values.argmax(1))
    if method.averages_labels:
        np.testing.assert_allclose(result.values, k.values, rtol=1e-6)


def test_nobody_answering_is_no_crash_and_no_knowledge(method: Method) -> None:
    nobody = [Report(c, 0, empty(CLASSES)) for c in range(2)]
    assert len(server_round(method, method.config(), nobody, plan(0), None, server(method))) == 0


def test_no_knowledge_is_no_crash_at_the_client(method: Method) -> None:
    for state in states(method):
        client_round(method, method.config(), state, PROXY, plan(1), empty(CLASSES))


def test_one_client_may_be_away(method: Method) -> None:
    """What the others have made without it is something that it can learn from."""
    reports, _, clients = play(method, 1)
    teacher = server_round(method, method.config(), reports[0][1:], plan(0), None, server(method))
    report = client_round(method, method.config(), clients[0], PROXY, plan(1), teacher)
    check_report(method, report, plan(1), range(CLASSES), CLASSES)


def test_a_lesson_is_probabilities_with_weights(method: Method) -> None:
    _, teachers, clients = play(method, 2)
    for state in clients:
        own = method.personalise_teacher(teachers[-1], state, PROXY, method.config())
        batch = method.distillation_targets(own, state.data, PROXY, method.config(), np.random.default_rng(0))
        assert len(batch.x) == len(batch.targets) == len(batch.weights)
        np.testing.assert_allclose(batch.targets.sum(1), 1, rtol=1e-5)
        assert (batch.weights >= 0).all()
        assert batch.x.shape[1:] == PROXY.x.shape[1:]


def test_clients_learn(method: Method) -> None:
    """Without an exchange they know their own two classes of four, and hardly a method makes that worse."""
    _, teachers, clients = play(method, 4)
    right = []
    for state in clients:
        client_round(method, method.config(), state, PROXY, plan(4), teachers[-1])
        right.append((state.learner.predict_logits(PROXY.x).argmax(1) == LABELS).mean())
    assert np.mean(right) > 0.45


def test_the_closing_round_sends_nothing(method: Method) -> None:
    _, teachers, clients = play(method, 2)
    report = client_round(method, method.config(), clients[0], PROXY, plan(TRAINING.rounds), teachers[-1])
    assert len(report.knowledge) == 0


def small(method: Method, workers: int) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 300},
            "partition": {"name": "weak", "n_clients": 5},
            "model": {"name": "mlp"},
            "method": {"name": method.name},
            "train": {"rounds": 2, "closing_epochs": 1},
            "run": {"workers": workers, "evaluate_every": 2},
        }
    )


def simulated(config: Config) -> tuple[InProcess, list[tuple[int, int]], list[bytes], list[np.ndarray]]:
    """Bytes up and down of each round, its teacher as float32, and the models at the end."""
    federation = prepare(config).federation
    transport = open_transport(config, federation)
    try:
        transport.start()
        results = list(
            run_rounds(
                config.method,
                config.method_config,
                transport,
                make_plans(config, federation),
                server=make_server_state(config, federation),
            )
        )
        sizes = [(r.exchange.bytes_up, r.exchange.bytes_down) for r in results]
        for r in results[:-1]:
            sent = [rep.knowledge for rep in r.exchange.reports if len(rep.knowledge)]
            assert r.exchange.bytes_up == sum(len(wire.encode(k, config.codec.name)) for k in sent)
        for before, after in pairwise(results):
            teacher = before.teacher
            assert teacher is not None
            size = len(wire.encode(teacher, config.codec.name)) if len(teacher) else 0
            assert after.exchange.bytes_down == size * len(federation.clients)
        models = [s.learner.state()["model/fc1.weight"] for s in transport.state.clients]
        return transport, sizes, [wire.encode(r.teacher, "float32") for r in results if r.teacher], models
    finally:
        transport.pool.close()


def test_bytes_counted_are_those_serialised_and_workers_change_no_bit(method: Method) -> None:
    (_, sizes, teachers, models), (_, sizes2, teachers2, models2) = (
        simulated(small(method, workers)) for workers in (0, 2)
    )
    assert sizes == sizes2
    assert teachers == teachers2
    assert all(np.array_equal(a, b) for a, b in zip(models, models2, strict=True))
    assert method.exchanges == (sizes[0][0] > 0)


def test_softmax_of_large_logits_is_finite() -> None:
    assert np.isfinite(softmax(np.array([[1e30, -1e30]], np.float32))).all()
