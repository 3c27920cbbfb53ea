"""What a receiver expects of reports, teachers and plans, and the refusal of everything else."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge, empty, weighted_mean
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms
from edgefd.federation.values import LOGITS, SOFT_LABELS, ValueRange
from edgefd.methods import get_method
from edgefd.rounds.server import server_round
from edgefd.rounds.validation import expected_report, expected_teacher
from edgefd.selection import selection_of
from edgefd.wire import messages as wire
from edgefd.wire.codecs import CODECS
from edgefd.wire.expected import UnexpectedContent
from tests.support.linear_clients import CLASSES, ROWS, TRAINING, new_server, plan, with_methods

FEDMD, FKD, COMET = (get_method(name) for name in ("fedmd", "fkd", "comet"))
SENDING = [get_method(name) for name in ("fedmd", "fkd", "comet", "kt_pfl", "scarlet", "cfd")]


def terms_for(method: Method = FEDMD, codec: str = "float32") -> FederationTerms:
    return FederationTerms(method.name, {}, codec, 0, CLASSES, "", training=TRAINING)


def rows(*ids: int, width: int = CLASSES) -> Knowledge:
    values = np.full((len(ids), width), 1 / width, np.float32)
    return Knowledge(np.array(ids, np.int64), values, np.ones(len(ids), np.float32))


def with_values(*values: float, n: int = 1) -> Knowledge:
    return dataclasses.replace(rows(*range(n)), values=np.tile(np.array(values, np.float32), (n, 1)))


def receive(method: Method, report: Report, p: RoundPlan, codec: str = "float32") -> Report:
    """Send a report to the server in a round and return what it receives."""
    return wire.decode_report(wire.encode_report(report, codec), expected_report(method, terms_for(method, codec), p))


def distil(method: Method, teacher: Knowledge, codec: str = "float32") -> Knowledge:
    """Send a teacher to a client and return what it receives."""
    expected = expected_teacher(method, terms_for(method, codec), ROWS, CLASSES)
    return wire.decode(wire.encode(teacher, codec), expected)


@with_methods()
def test_a_report_with_a_row_that_does_not_exist_is_refused(method: Method) -> None:
    with pytest.raises(UnexpectedContent, match=r"row 60 was not queried|at most 0 are|1 of 60 rows"):
        receive(method, Report(0, 0, rows(ROWS)), plan(0))


@pytest.mark.parametrize(
    ("report", "round", "message"),
    [
        (Report(0, 1, rows(1)), 0, "the report is for round 1, not for round 0"),
        (Report(0, 0, rows(1, width=3)), 0, "3 values per row, but 4 are expected"),
        (Report(0, TRAINING.rounds, rows(1)), TRAINING.rounds, "1 rows, but at most 0"),
        (Report(0, 0, rows(1, 2)), 0, "row 2 was not queried"),
    ],
)
def test_a_report_that_does_not_fit_the_plan_is_refused(report: Report, round: int, message: str) -> None:
    odd_rows = dataclasses.replace(plan(round), ids=np.arange(1, ROWS, 2))
    receive(FEDMD, Report(0, 0, rows(1)), dataclasses.replace(plan(0), ids=odd_rows.ids))
    with pytest.raises(UnexpectedContent, match=message):
        receive(FEDMD, report, odd_rows)


def test_a_report_of_class_labels_may_have_classes_that_the_plan_does_not_query() -> None:
    no_rows = dataclasses.replace(plan(0), ids=np.empty(0, np.int64))
    receive(FKD, Report(0, 0, rows(0, 3)), no_rows)
    with pytest.raises(UnexpectedContent, match="row 4 was not queried, or does not exist"):
        receive(FKD, Report(0, 0, rows(0, 4)), no_rows)


def test_a_report_with_some_of_the_rows_is_refused_where_methods_need_all() -> None:
    for knowledge in (empty(CLASSES), rows(*range(ROWS))):
        receive(COMET, Report(0, 0, knowledge), plan(0))
    with pytest.raises(UnexpectedContent, match="2 of 60 rows: this method needs all or none"):
        receive(COMET, Report(0, 0, rows(0, 1)), plan(0))


@pytest.mark.parametrize("codec", ["float32", "float16"])
@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        (FEDMD, (-1, 1, 1, 0), "values from -1 to 1 are sent, but soft labels are from 0 to 1"),
        (FEDMD, (60000, 0, 0, 0), "values from 0 to 60000 are sent"),
        (FEDMD, (1.01, 0, 0, 0), "soft labels are from 0 to 1"),
        (FEDMD, (0, 0, 0, 0), "a row sums to 0, but soft labels sum to 1"),
        (FEDMD, (1, 1, 0, 0), "a row sums to 2"),
        (FEDMD, (0.5, 0.48, 0, 0), "a row sums to 0.98"),
        (FEDMD, (3.25, -2.5, 0.4, 1.1), "values from -2.5 to 3.25"),  # logits: somebody forgot the softmax
        (COMET, (1.01, 0, 0, 0), "soft labels are from 0 to 1"),
        (FKD, (-10_016, 0, 0, 0), "logits are from -10000 to 10000"),
        (FKD, (60_000, 0, 0, 0), "logits are from -10000 to 10000"),
    ],
)
def test_values_that_no_client_can_have_are_refused(
    method: Method, values: tuple[float, ...], message: str, codec: str
) -> None:
    n = ROWS if method is COMET else 1
    with pytest.raises(UnexpectedContent, match=message):
        receive(method, Report(0, 0, with_values(*values, n=n)), plan(0), codec)
    with pytest.raises(UnexpectedContent, match=message):
        distil(method, with_values(*values, n=n), codec)


@pytest.mark.parametrize("codec", ["uint8", "uint4"])
def test_a_codec_of_few_bits_refuses_the_rows_that_its_rounding_does_not_explain(codec: str) -> None:
    step = 0.5 / (255 if codec == "uint8" else 15)
    allowed = (1 - CLASSES * step, 0, 0, 0)
    for refused in ((0, 0, 0, 0), (1, 1, 0, 0), (1 - 2 * CLASSES * step - 0.02, 0, 0, 0)):
        receive(FEDMD, Report(0, 0, with_values(*allowed)), plan(0), codec)
        with pytest.raises(UnexpectedContent, match="a row sums to"):
            receive(FEDMD, Report(0, 0, with_values(*refused)), plan(0), codec)


@given(
    st.sampled_from(sorted(CODECS)), st.integers(2, 300), st.sampled_from([0.01, 0.3, 100]), st.integers(0, 2**32 - 1)
)
@settings(deadline=None)
def test_rounded_soft_labels_and_their_mean_are_never_refused(codec: str, width: int, alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms = dataclasses.replace(terms_for(codec=codec), n_classes=width)
    sent = [rng.dirichlet(np.full(width, alpha), 9).astype(np.float32) for _ in range(3)]
    sent = [p for p in sent if np.isfinite(p).all()]
    expected = expected_report(FEDMD, terms, RoundPlan(0, np.arange(9)))
    uploads = [
        wire.decode(wire.encode(Knowledge(np.arange(9), p, np.ones(9, np.float32)), codec), expected.knowledge)
        for p in sent
    ]
    if uploads:
        mean = np.mean([k.values for k in uploads], axis=0, dtype=np.float64).astype(np.float32)
        teacher = dataclasses.replace(uploads[0], values=mean)
        wire.decode(wire.encode(teacher, codec), expected_teacher(FEDMD, terms, 9, 3))


@pytest.mark.parametrize("codec", ["uint8", "uint4"])
def test_the_sum_of_a_rounded_row_or_mean_reaches_its_bound_but_not_more(codec: str) -> None:
    """Rows of equal numbers just above half a step, then means that are just above half a step again."""
    step = 1 / 255 if codec == "uint8" else 1 / 15
    n, width = int(2 / step) - 1, 2 * (int(2 / step) - 1)
    terms = dataclasses.replace(terms_for(codec=codec), n_classes=width)
    expected = expected_report(FEDMD, terms, RoundPlan(0, np.arange(1))).knowledge
    votes = []
    for client in range(101):
        row = np.zeros((1, width), np.float32)
        row[0, (np.arange(n) + client * n // 101 * 2) % width] = 1 / n
        votes.append(Knowledge(np.arange(1), row, np.ones(1, np.float32)))
    received = [wire.decode(wire.encode(k, codec), expected) for k in votes]
    assert max(k.values.sum() for k in received) > 1.9
    teacher = weighted_mean(received)
    wire.decode(wire.encode(teacher, codec), expected_teacher(FEDMD, terms, 1, 101))
    too_large = dataclasses.replace(votes[0], values=np.full((1, width), 1.2 * step, np.float32))
    with pytest.raises(UnexpectedContent, match="a row sums to"):
        wire.decode(wire.encode(too_large, codec), expected)


@pytest.mark.parametrize("other", sorted(CODECS))
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_only_the_codec_of_the_terms_and_labels_are_accepted(codec: str, other: str) -> None:
    expected = expected_report(FEDMD, terms_for(codec=codec), plan(0))
    label = with_values(0, 0, 1, 0)
    if "simplex15" not in (codec, other):  # labels belong to every codec of numbers
        wire.decode_report(wire.encode_report(Report(0, 0, label), other), expected)
    soft = wire.encode_report(Report(0, 0, rows(1)), other)
    if codec == other:
        wire.decode_report(soft, expected)
    else:
        with pytest.raises(UnexpectedContent, match=f"{codec} .* is expected"):
            wire.decode_report(soft, expected)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"accuracy": 1.0}, "unknown metric 'accuracy'"),
        ({"correct/zz": 1.0}, "unknown metric 'correct/zz'"),
        ({"bin_count/0": 1.0}, "unknown metric 'bin_count/0'"),
        ({"class_kl/0": 1.0}, "unknown metric 'class_kl/0'"),  # the selection rule asks for none
        ({"\x1b[2J": 1.0}, r"unknown metric '\\x1b\[2J'"),
        ({"x" * 99: 1.0}, f"unknown metric '{'x' * 40}'$"),
        ({"heldout_accuracy": 1.5}, "heldout_accuracy is 1.5, but it must be from 0 to 1"),
        ({"heldout_accuracy": -0.1}, "must be from 0 to 1"),
        ({"train_loss": 1.7e308}, r"train_loss is 1.7e\+308"),
        ({"distil_loss": float("nan")}, "distil_loss is nan"),
        ({"distil_loss": float("inf")}, "distil_loss is inf"),
    ],
)
def test_metrics_that_no_device_measures_are_refused(metrics: dict[str, float], message: str) -> None:
    honest = {"heldout_accuracy": 0.5, "train_loss": 2.0, "distil_loss": 0.1}
    assert receive(FEDMD, Report(0, 0, rows(1), honest), plan(0)).metrics == honest
    with pytest.raises(UnexpectedContent, match=message):
        receive(FEDMD, Report(0, 0, rows(1), metrics), plan(0))


def test_a_selection_rule_that_needs_metrics_names_them_for_the_classes_that_exist() -> None:
    terms = dataclasses.replace(terms_for(), selection=selection_of({"name": "ddk", "budget": 0.5}))
    expected = expected_report(FEDMD, terms, plan(0))
    expected.check_metrics({f"class_kl/{c}": 3.0 for c in range(CLASSES)})
    for name, value in ((f"class_kl/{CLASSES}", 3.0), ("class_kl/01", 3.0), ("class_kl/0", 1e9)):
        with pytest.raises(UnexpectedContent, match="class_kl"):
            expected.check_metrics({name: value})


@pytest.mark.parametrize(
    ("method", "teacher", "message"),
    [
        (FEDMD, rows(1, width=3), "3 values per row, but 4 are expected"),
        (FEDMD, rows(ROWS), "row 60 was not queried, or does not exist"),
        (FKD, rows(CLASSES), "row 4 was not queried, or does not exist"),
        (COMET, rows(CLASSES * ROWS), "row 240 was not queried, or does not exist"),
    ],
)
def test_a_teacher_with_rows_or_classes_that_do_not_exist_is_refused(
    method: Method, teacher: Knowledge, message: str
) -> None:
    with pytest.raises(UnexpectedContent, match=message):
        distil(method, teacher)


def test_several_teachers_may_have_ids_up_to_one_teacher_for_each_client() -> None:
    distil(COMET, rows(1, ROWS + 1, CLASSES * ROWS - 1))
    distil(FEDMD, empty(CLASSES))


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("method", SENDING, ids=lambda method: method.name)
def test_no_honest_report_is_larger_than_the_limit(method: Method, codec: str) -> None:
    rng = np.random.default_rng(0)
    n = CLASSES if method is FKD else ROWS
    values = rng.dirichlet(np.ones(CLASSES), n).astype(np.float32)
    knowledge = Knowledge(np.arange(n), values, rng.uniform(0.1, 1, n).astype(np.float32))
    everything = Report(2**32 - 1, 0, knowledge, {"heldout_accuracy": 0.5, "train_loss": 1.0, "distil_loss": 2.0})
    expected = expected_report(method, terms_for(method, codec), plan(0))
    assert len(wire.encode_report(everything, codec)) <= expected.largest
    too_long = wire.encode_report(everything, codec) + b"\x7a\x80\x80\x01" + bytes(2**14)  # an unknown field
    with pytest.raises(UnexpectedContent, match="bytes; the limit is"):
        wire.decode_report(too_long, expected)


def test_every_method_declares_the_range_of_its_values() -> None:
    assert FEDMD.values is SOFT_LABELS
    assert FKD.values is LOGITS
    assert get_method("fedavg").values.name == "parameters"
    for least, most in ((0.0, float("inf")), (1.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="must be finite and not empty"):
            ValueRange("numbers", least, most)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((np.inf, 0, 0, 0), "values must be finite"),
        ((1e30, 0, 0, 0), "soft labels are from 0 to 1"),
        ((0.5, 0, 0, 0), "a row sums to 0.5"),
        ((60000, 0, 0, 0), "soft labels are from 0 to 1"),
    ],
)
def test_an_aggregate_that_clients_could_not_decode_ends_the_run_before_it_is_sent(
    values: tuple[float, ...], message: str
) -> None:
    broken = dataclasses.replace(FEDMD, aggregate=lambda _: with_values(*values))
    with pytest.raises(RunError, match=f"round 0: the aggregate of method fedmd cannot be sent: .*{message}"):
        server_round(new_server(broken), [Report(0, 0, rows(1))], plan(0), Progress())


def test_an_aggregate_with_rows_of_no_proxy_sample_ends_the_run() -> None:
    broken = dataclasses.replace(FEDMD, aggregate=lambda _: rows(ROWS))
    with pytest.raises(RunError, match="row 60 was not queried, or does not exist"):
        server_round(new_server(broken), [Report(0, 0, rows(1))], plan(0), Progress())


def test_a_method_without_messages_expects_no_rows() -> None:
    alone = get_method("indlearn")
    assert alone.message is MessageKind.NOTHING
    receive(alone, Report(0, 0, empty(CLASSES)), plan(0))
    with pytest.raises(UnexpectedContent, match="at most 0"):
        receive(alone, Report(0, 0, rows(1)), plan(0))
