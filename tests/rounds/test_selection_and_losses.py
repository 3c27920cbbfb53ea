"""Selection rules and distillation losses in a run: bytes, equal bits with workers, and the ONNX learner."""

from typing import Any

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.runs.prepare import prepare
from edgefd.selection._rule import n_rows
from tests.support.small_runs import config, rounds, teachers

SETTINGS: list[dict[str, Any]] = [
    {"selection": {"name": "random", "budget": 0.25}},
    {"selection": {"name": "pcoreset", "budget": 0.25}},
    {"selection": {"name": "ddk", "budget": 20}},
    {"selection": {"name": "rad", "budget": 0.25}},
    {"selection": {"name": "llkd"}},
    {"selection": {"name": "adaspec", "budget": 0.5}},
    {"selection": {"name": "kd3", "budget": 0.5}},
    {"distillation": {"temperature": 2}},
    {"distillation": {"loss": "pld"}},
    {"distillation": {"loss": "taid"}},
    {"distillation": {"loss": "mixed"}},
    {"distillation": {"loss": "swing", "temperature": 2}},
]


def name_of(settings: dict[str, Any]) -> str:
    (section,) = settings.values()
    return str(section.get("name") or section.get("loss", "temperature"))


@pytest.fixture(scope="module")
def plain() -> list[Knowledge]:
    return teachers(config())


@pytest.mark.parametrize("settings", SETTINGS, ids=name_of)
def test_the_setting_reaches_the_code_and_changes_the_teachers(
    settings: dict[str, Any], plain: list[Knowledge]
) -> None:
    assert not all(a.equals(b) for a, b in zip(teachers(config(**settings)), plain, strict=True))


@pytest.mark.parametrize("settings", [s for s in SETTINGS if name_of(s) in ("ddk", "rad", "taid")], ids=name_of)
def test_worker_processes_change_no_bit_of_the_teachers(settings: dict[str, Any]) -> None:
    serial, forked = (teachers(config(workers, **settings)) for workers in (0, 2))
    assert all(a.equals(b) for a, b in zip(serial, forked, strict=True))


@pytest.mark.parametrize(
    "settings",
    [s if name_of(s) in ("ddk", "adaspec", "pld") else pytest.param(s, marks=pytest.mark.slow) for s in SETTINGS],
    ids=name_of,
)
def test_the_onnx_learner_of_devices_gives_the_teachers_of_torch(settings: dict[str, Any]) -> None:
    fine: dict[str, Any] = {"codec": {"name": "float16"}, **settings}
    torch, onnx = (teachers(config(learner=learner, **fine)) for learner in ("torch", "onnx"))
    for a, b in zip(torch, onnx, strict=True):
        assert len(a) == len(b)
        assert np.abs(a.values - b.values).max() < 0.05  # low bits differ, and the difference grows over rounds


def test_rows_that_the_server_does_not_query_are_not_sent() -> None:
    all_rows = rounds(config())
    size = len(prepare(config()).federation.proxy)
    for name in ("random", "pcoreset", "ddk"):
        c = config(selection={"name": name, "budget": 0.25})
        for some, every in zip(rounds(c), all_rows, strict=True):
            if not some.closing:
                assert 0 < some.bytes_up < 0.5 * every.bytes_up
                assert some.teacher_coverage <= n_rows(0.25, size) / size
            if some.round:
                assert 0 < some.bytes_down < 0.5 * every.bytes_down


def test_a_rule_of_the_client_does_not_change_the_bytes() -> None:
    c = config(selection={"name": "kd3", "budget": 2})
    some, every = rounds(c), rounds(config())
    assert [r.bytes_down for r in some[:2]] == [r.bytes_down for r in every[:2]]
    assert some[0].bytes_up == every[0].bytes_up


def test_a_budget_of_more_rows_than_the_proxy_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"selection\.budget is 1000 rows, but the proxy set has 61"):
        prepare(config(selection={"name": "random", "budget": 1000}))


def test_contributed_labels_are_the_true_labels() -> None:
    federation = prepare(config()).federation
    assert federation.proxy_labels is not None
    for data in federation.clients:
        assert data.contributed_y is not None
        assert np.array_equal(data.contributed_y, federation.proxy_labels[data.contributed])
