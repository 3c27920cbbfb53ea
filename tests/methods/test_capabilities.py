"""Capabilities are declared: what a config allows for a method depends on them, never on the functions of its hooks."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.distillation import teacher_rows
from edgefd.federation.method import MessageKind, Method, plain_steps
from edgefd.federation.progress import Progress
from edgefd.methods import get_method
from edgefd.methods.selective_fd import confident_rows
from edgefd.poisoning.robust_aggregation import Aggregator, aggregate_of
from edgefd.rounds.server import server_round
from tests.support.configs import PRIVATE
from tests.support.linear_clients import METHODS, acceptance, new_server, plan, play, with_methods
from tests.support.small_runs import config, results, rounds

OTHER: dict[str | None, Any] = {None: "median", "mean": "median", "median": "mean"}
MEDIAN: dict[str, Any] = {"aggregator": {"name": "median"}}


def squared(k: Knowledge) -> Knowledge:
    power = k.values**2
    return Knowledge(k.ids, power / power.sum(1, keepdims=True), k.weights)


WRAPPED = Method("wrapped", "a mean in a lambda", aggregate=lambda ctx: squared(ctx.combine(ctx.uploads)))
DECLARED = replace(WRAPPED, name="declared", label_aggregation=True)
ACCOUNTED = replace(WRAPPED, name="accounted", privacy_accounting=True)
SILENT = replace(WRAPPED, name="silent", answers_queries=False, distils_rows=False)


def own(name: str) -> dict[str, Any]:
    return {"method": {"name": f"{__name__}:{name}"}}


def refusal(sections: dict[str, Any]) -> str:
    """Return the only line of the error for a config."""
    with pytest.raises(UserError) as caught:
        parse_config(sections)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_method_has_at_most_six_hooks() -> None:
    defaults = {f.name: f.default for f in fields(Method)}
    hooks = {name for name, value in defaults.items() if callable(value) and not isinstance(value, type)}
    assert hooks - {"packages"} == {
        "filter",
        "distillation_targets",
        "local_step",
        "upload",
        "aggregate",
        "transform",
    }


@pytest.mark.parametrize("name", [None, "mean", "median"])
def test_selective_fd_filters_the_rows_of_the_configured_aggregate(name: Any) -> None:
    sections = {"aggregator": {"name": name}} if name else {}
    train = {"rounds": 1, "local_steps": 20}
    c = config(method={"name": "selective_fd", "server_threshold": 1.0, "quantile": 1.0}, train=train, **sections)
    first = results(c)[0]
    uploads = [r.knowledge for r in first.exchange.reports]
    combined, other = (aggregate_of(Aggregator(rule))(uploads) for rule in (name or "mean", OTHER[name]))
    assert first.teacher is not None
    assert first.teacher.equals(confident_rows(combined, c.method_config))
    assert not first.teacher.equals(confident_rows(other, c.method_config))
    assert 0 < len(first.teacher) < len(combined)


def test_an_aggregator_is_refused_if_the_method_exchanges_nothing() -> None:
    assert "aggregator: clients of method indlearn send nothing" in refusal({"method": {"name": "indlearn"}, **MEDIAN})


def test_a_baseline_that_exchanges_nothing_runs_without_the_aggregator() -> None:
    c = config(baselines=["indlearn", "centralised"], **MEDIAN)
    alone = c.for_method("indlearn")
    assert alone.aggregator == Aggregator()
    plain = config(method={"name": "indlearn"})
    assert [r.accuracy_mean for r in rounds(alone)] == [r.accuracy_mean for r in rounds(plain)]


def test_a_baseline_with_its_own_aggregation_rule_is_refused_with_an_aggregator() -> None:
    assert "method weighted_fd has its own aggregation rule" in refusal({"baselines": ["weighted_fd"], **MEDIAN})


def test_label_aggregation_is_declared_and_not_inferred() -> None:
    assert "does not declare label_aggregation" in refusal({**own("WRAPPED"), **MEDIAN})
    with_default_aggregate = replace(DECLARED, aggregate=get_method("fedmd").aggregate, label_aggregation=False)
    assert not with_default_aggregate.label_aggregation
    c = config(**own("DECLARED"), **MEDIAN)
    first = results(c)[0]
    combined = aggregate_of(Aggregator("median"))([r.knowledge for r in first.exchange.reports])
    assert first.teacher is not None
    assert first.teacher.equals(squared(combined))


@pytest.mark.parametrize(
    "sections",
    [
        {"selection": {"name": "random", "budget": 0.5}},
        {"selection": {"name": "kd3", "budget": 0.5}},
        {"distillation": {"loss": "pld"}},
        {"defence": {"name": "top_k", "k": 1}},
        {"aggregator": {"name": "trimmed_mean", "one_vote": True}},
    ],
    ids=lambda sections: next(iter(sections)),
)
def test_a_method_of_a_third_party_keeps_what_it_declares(sections: dict[str, Any]) -> None:
    changed, plain = (results(config(**own("DECLARED"), **more)) for more in (sections, {}))
    assert not all(a.teacher.equals(b.teacher) for a, b in zip(changed, plain, strict=True) if a.teacher and b.teacher)


def test_a_method_that_does_not_answer_queries_or_distil_rows_is_refused_with_a_selection_or_a_loss() -> None:
    assert "the server cannot choose rows for method silent" in refusal(
        {**own("SILENT"), "selection": {"name": "random", "budget": 0.5}}
    )
    for sections in ({"selection": {"name": "kd3", "budget": 0.5}}, {"distillation": {"loss": "pld"}}):
        assert "method silent learns something else" in refusal({**own("SILENT"), **sections})


@pytest.mark.parametrize("defence", ["noise", "pate", "dp_sgd"])
def test_only_a_method_that_declares_it_can_claim_an_epsilon(defence: str) -> None:
    private = PRIVATE | {"defence": {"name": defence}}
    assert "accounting does not cover method declared" in refusal(private | own("DECLARED"))
    assert parse_config(private | own("ACCOUNTED")).defence.name == defence


@with_methods()
def test_a_method_of_edgefd_declares_label_aggregation_if_it_uses_the_combination(method: Method) -> None:
    """The server's combination is replaced by one that records its calls."""
    combined = []

    def combine(uploads: Sequence[Knowledge]) -> Knowledge:
        combined.append(uploads)
        return weighted_mean(uploads)

    reports = play(method, 1)[0][0]
    server_round(replace(new_server(method), combine=combine), reports, plan(0), Progress())
    if method.exchanges:
        assert method.label_aggregation == bool(combined)
    else:
        assert not method.label_aggregation


@with_methods(m for m in METHODS if m.privacy_accounting)
def test_a_method_with_accounting_accepts_all_rows_and_trains_in_the_standard_way(method: Method) -> None:
    assert method.message is MessageKind.PROXY_LABELS
    assert (acceptance(method) == 1).all()
    assert method.local_step is plain_steps
    assert method.distillation_targets is teacher_rows
