"""Selection and distillation in a run: fewer bytes, the same bits whoever computes, a device's learner as torch."""

from typing import Any

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.runs.prepare import prepare
from edgefd.selection.settings import n_rows
from tests.support.small_runs import config, rounds, teachers

PLUGINS: list[dict[str, Any]] = [
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


def name_of(plugin: dict[str, Any]) -> str:
    (section,) = plugin.values()
    return str(section.get("name") or section.get("loss", "temperature"))


@pytest.fixture(scope="module")
def plain() -> list[Knowledge]:
    return teachers(config())


@pytest.mark.parametrize("plugin", PLUGINS, ids=name_of)
def test_each_changes_what_is_learned(plugin: dict[str, Any], plain: list[Knowledge]) -> None:
    assert not all(a.equals(b) for a, b in zip(teachers(config(**plugin)), plain, strict=True))


@pytest.mark.parametrize("plugin", [p for p in PLUGINS if name_of(p) in ("ddk", "rad", "taid")], ids=name_of)
def test_workers_do_what_one_process_does(plugin: dict[str, Any]) -> None:
    here, there = (teachers(config(workers, **plugin)) for workers in (0, 2))
    assert all(a.equals(b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize(
    "plugin",
    [p if name_of(p) in ("ddk", "adaspec", "pld") else pytest.param(p, marks=pytest.mark.slow) for p in PLUGINS],
    ids=name_of,
)
def test_a_devices_learner_learns_what_torch_does(plugin: dict[str, Any]) -> None:
    torch, device = (teachers(config(learner=learner, **plugin)) for learner in ("torch", "onnx"))
    for a, b in zip(torch, device, strict=True):
        assert len(a) == len(b)
        assert np.abs(a.values - b.values).max() < 0.05  # low bits differ, and over rounds they grow


def test_what_the_server_does_not_ask_about_does_not_travel() -> None:
    everything = rounds(config())
    size = len(prepare(config()).federation.proxy)
    for name in ("random", "pcoreset", "ddk"):
        c = config(selection={"name": name, "budget": 0.25})
        for some, every in zip(rounds(c), everything, strict=True):
            if not some.closing:
                assert 0 < some.bytes_up < 0.5 * every.bytes_up
                assert some.teacher_coverage <= n_rows(0.25, size) / size
            if some.round:
                assert 0 < some.bytes_down < 0.5 * every.bytes_down


def test_what_clients_choose_changes_no_traffic_but_how_much_they_learn() -> None:
    c = config(selection={"name": "kd3", "budget": 2})
    some, every = rounds(c), rounds(config())
    assert [r.bytes_down for r in some[:2]] == [r.bytes_down for r in every[:2]]
    assert some[0].bytes_up == every[0].bytes_up


def test_more_rows_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"selection\.budget is 1000 rows, but the proxy set has 61"):
        prepare(config(selection={"name": "random", "budget": 1000}))


def test_owned_labels_are_the_true_ones() -> None:
    federation = prepare(config()).federation
    assert federation.proxy_labels is not None
    for data in federation.clients:
        assert data.contributed_y is not None
        assert np.array_equal(data.contributed_y, federation.proxy_labels[data.contributed])
