"""Callbacks: when they are called, that they change no result, and what their errors do."""

import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import edgefd
from edgefd.core.errors import UserError
from edgefd.runs.callbacks import CallbackList, load_callbacks, tracker_names
from edgefd.runs.round_metrics import RoundMetrics
from tests.support.commands import edgefd as command
from tests.support.one_line import one_line
from tests.support.small_configs import SMALL

OWN = """
import edgefd
class Own(edgefd.Callback):
    def __init__(self, prefix="own"):
        self.prefix = prefix
    def on_round(self, metrics):
        print(self.prefix, metrics.round)
class Failing(edgefd.Callback):
    def on_start(self, run):
        raise OSError("no server")
class Partial:
    def on_start(self, run): pass
"""


class Recorder(edgefd.Callback):
    """Records its calls; one of them fails, or interrupts the run."""

    def __init__(self, fails: str = "", error: type[BaseException] = ZeroDivisionError) -> None:
        self.calls: list[Any] = []
        self.fails, self.error = fails, error

    def on_start(self, run: edgefd.RunInfo) -> None:
        self.folder = run.folder
        self._note("start", run.name, run.n_clients)

    def on_round(self, metrics: RoundMetrics) -> None:
        written = (self.folder / "metrics.jsonl").read_text().splitlines()
        self._note("round", metrics.round, len(written))

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        self._note("end", None if summary is None else summary["complete"], (self.folder / "summary.json").exists())

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fails == " ".join(map(str, call[:2])):
            raise self.error("mine")


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run without the times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def run(tmp_path: Path, *callbacks: edgefd.Callback, **settings: Any) -> edgefd.Run:
    return edgefd.simulate(SMALL, settings, callbacks=callbacks, out=tmp_path / "run")


def test_a_callback_follows_the_run_and_then_its_baselines_and_changes_nothing(tmp_path: Path) -> None:
    alone = edgefd.simulate(SMALL, {"baselines": ["fedmd"]}, out=tmp_path / "alone")
    recorder = Recorder()
    followed = run(tmp_path, recorder, baselines=["fedmd"])
    of_run = [("round", 0, 1), ("round", 1, 2), ("round", 2, 3), ("end", True, True)]
    assert recorder.calls == [("start", "run", 3), *of_run, ("start", "run/fedmd", 3), *of_run]
    assert lines(followed.folder) == lines(alone.folder)
    assert followed.teacher is not None
    assert alone.teacher is not None
    assert followed.teacher.equals(alone.teacher)


@pytest.mark.parametrize(
    ("fails", "calls", "place", "advice"),
    [
        ("round 1", ["start", "round", "round", "end"], "at round 1", "it gets no more rounds of this run"),
        ("end True", ["start", "round", "round", "round", "end"], "at the end of the run", "is missing there"),
    ],
)
def test_an_error_in_a_run_is_logged_once_with_the_name_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: str, calls: list[str], place: str, advice: str
) -> None:
    recorder, other = Recorder(fails), Recorder()
    with caplog.at_level(logging.WARNING, "edgefd"):
        finished = run(tmp_path, recorder, other)
    (warning,) = [r.getMessage() for r in caplog.records if "callback" in r.getMessage()]
    assert warning.startswith(f"callback Recorder failed {place}: ZeroDivisionError: mine; the run continues, and ")
    assert advice in warning
    assert [call[0] for call in recorder.calls] == calls
    assert len(other.calls) == 5
    assert finished.summary["complete"] is True
    assert len(lines(finished.folder)) == 3


def test_an_error_at_the_start_ends_the_run_before_it_and_leaves_nothing(tmp_path: Path) -> None:
    first, failing = Recorder(), Recorder("start run")
    with pytest.raises(UserError, match=r"^callback Recorder failed at the start of the run: ZeroDivisionError: mine$"):
        run(tmp_path, first, failing, **{"run.workers": 2})
    assert first.calls == [("start", "run", 3), ("end", None, False)]
    assert failing.calls == [("start", "run", 3)]
    assert list(tmp_path.iterdir()) == []
    assert torch.multiprocessing.active_children() == []  # type: ignore[no-untyped-call]


def test_an_error_at_the_start_of_a_baseline_does_not_lose_the_run_before_it(tmp_path: Path) -> None:
    failing = Recorder("start run/fedmd")
    finished = run(tmp_path, failing, baselines=["fedmd", "indlearn"])
    assert set(finished.baselines) == {"fedmd", "indlearn"}
    assert [call for call in failing.calls if call[0] != "round"] == [
        *(("start", "run", 3), ("end", True, True), ("start", "run/fedmd", 3)),
        *(("start", "run/indlearn", 3), ("end", True, True)),
    ]


def test_a_resumed_run_passes_on_the_completed_rounds_first_and_starts_in_spite_of_an_error(tmp_path: Path) -> None:
    finished = run(tmp_path)
    recorder, failing = Recorder(), Recorder("start run")
    followers = CallbackList([failing, recorder])
    followers.start(edgefd.RunInfo("run", finished.folder, finished.config, 3), finished.rounds[:2])
    followers.round(finished.rounds[2])
    followers.end(finished.summary)
    assert [call[:2] for call in recorder.calls] == [
        ("start", "run"),
        *(("round", 0), ("round", 1), ("round", 2), ("end", True)),
    ]
    assert failing.calls == [("start", "run", 3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_and_a_callback_that_stops_the_run_end_every_callback(tmp_path: Path, workers: int) -> None:
    class Interrupt(edgefd.Callback):
        def on_round(self, metrics: RoundMetrics) -> None:
            if metrics.round == 1:
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt, match=r"the rounds done so far \(\d+\) are in"):
        run(tmp_path, Interrupt(), recorder, **{"train.rounds": 5000, "run.workers": workers})
    assert recorder.calls[-1] == ("end", False, True)
    stopping, other = Recorder("round 1", KeyboardInterrupt), Recorder()
    with pytest.raises(KeyboardInterrupt, match=r"the rounds done so far \(2\) are in"):
        edgefd.simulate(SMALL, callbacks=[stopping, other], out=tmp_path / "stopped")
    assert stopping.calls[-1] == other.calls[-1] == ("end", False, True)


def test_ctrl_c_at_the_end_of_a_callback_still_ends_the_others(tmp_path: Path) -> None:
    hanging, other = Recorder("end True", KeyboardInterrupt), Recorder()
    with pytest.raises(KeyboardInterrupt, match=r"the rounds done so far \(3\) are in"):
        run(tmp_path, hanging, other, baselines=["fedmd"])
    assert other.calls[-1] == ("end", True, True)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["complete"] is True
    assert not (tmp_path / "run" / "also").exists()


def test_a_run_that_fails_ends_its_callbacks(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = {"coordinator": {"dropout": 0.9, "min_reports": 3}, "train.rounds": 30}
    with pytest.raises(edgefd.RunError):
        run(tmp_path, recorder, **settings)
    assert recorder.calls[-1][:2] in [("end", None), ("end", False)]


def test_callbacks_of_a_config_are_created_with_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    named = ["mine:Own", {"name": "mine:Own", "prefix": "other"}]
    for config, settings in ((SMALL, {"run.callbacks": named}), (tmp_path / "run" / "config.yaml", {})):
        edgefd.simulate(config, settings, out=tmp_path / ("again" if settings == {} else "run"))
        assert capsys.readouterr().out.splitlines() == ["own 0", "other 0", "own 1", "other 1", "own 2", "other 2"]


@pytest.mark.slow
def test_a_command_reports_a_callback_that_cannot_start_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "small.yaml").write_text(json.dumps(SMALL | {"run": {"callbacks": ["mine:Failing"]}}))
    paths = f"{Path(__file__).parents[2]}:{Path(__file__).parents[2] / 'proto'}:{tmp_path}"
    failed = command("simulate", "small.yaml", "--out", "no", cwd=tmp_path, PYTHONPATH=paths)
    one_line(failed, 2, "callback Failing failed at the start of the run: OSError: no server")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"run.trackers": ["tensorbord"]}, "run.trackers: unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
        ({"run.trackers": ["csv", "csv"]}, "run.trackers names csv twice: remove one"),
        ({"run.trackers": "csv"}, "run.trackers: Input should be a valid"),
        ({"run.callbacks": ["nothing"]}, "callback 'nothing' must look like package.module:ATTRIBUTE"),
        ({"run.callbacks": ["mine_too:Own"]}, "cannot load callback 'mine_too:Own': ModuleNotFoundError"),
        ({"run.callbacks": [{"prefix": "x"}]}, "run.callbacks: {'prefix': 'x'} must be package.module:Class, or {name"),
        ({"run.callbacks": [{"name": "mine:Own", "x": 1}]}, "cannot create mine:Own: TypeError: "),
        (
            {"run.callbacks": ["mine:Partial"]},
            "callback Partial has no on_round; a subclass of edgefd.Callback",
        ),
        ({"run.callbacks": [3]}, "run.callbacks.0"),
    ],
)
def test_what_cannot_be_a_callback_is_refused_in_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(UserError) as caught:
        load_callbacks(edgefd.load_config(SMALL, settings))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_and_another_object_are_no_callbacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="callback Recorder is a class: pass an object of it"):
        edgefd.simulate(SMALL, callbacks=[Recorder], out=tmp_path / "run")  # type: ignore[list-item]
    with pytest.raises(UserError, match="callback builtin_function_or_method has no on_start"):
        edgefd.simulate(SMALL, callbacks=[print], out=tmp_path / "run")  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_the_guide_is_right_about_its_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "trackers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    trackers, callbacks = (yaml.safe_load(block)["run"] for block in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert set(trackers["trackers"]) < set(tracker_names())
    edgefd.simulate(SMALL, {f"run.{key}": value for key, value in callbacks.items()}, out=tmp_path / "run")
    worst = [line["accuracy_worst"] for line in lines(tmp_path / "run")]
    expected = [
        f"round {i}: the worst client has {accuracy:.2f}"
        for i, accuracy in enumerate(worst)
        for limit in (0.5, 0.3)
        if accuracy < limit
    ]
    assert capsys.readouterr().out.splitlines() == expected
    assert expected
    assert all(f"| `{name}` |" in guide for name in tracker_names())
