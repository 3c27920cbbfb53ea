"""Trackers store settings, numbers and summary where their own readers find them; no tracker needs a network."""

import csv
import dataclasses
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from edgefd_server.coordinator.open_run import OpenRun, create_checkpoint
from edgefd_server.coordinator.rounds import coordinate
from edgefd_server.coordinator.served_run import ServedRun

import edgefd
from edgefd.core.errors import UserError
from edgefd.runs.callbacks import tracker, tracker_names
from edgefd.runs.prepare import prepare
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import InProcess, open_transport
from edgefd.simulation.sweep import load_sweep, run_sweep
from tests.support.small_configs import SMALL
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
PACKAGES = {"csv": "csv", "tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, with trackers that call no server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())


def tracked(name: str, **settings: Any) -> edgefd.Run:
    return edgefd.simulate(SMALL, {"run.trackers": [name], **settings}, out="run")


def numbers(folder: Path, name: str) -> list[tuple[int, float]]:
    """The rounds in which a number was measured, with the number, from metrics.jsonl."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["round"], row[name]) for row in rows if row[name] is not None]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def without_times(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_every_tracker_is_listed_with_its_extra() -> None:
    assert set(tracker_names()) == set(PACKAGES)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefd.core.errors.find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"^this needs {name}: pip install 'edgefd\[{name}\]'$"):
        tracker(name)


def test_csv_has_a_row_for_each_round_and_each_number() -> None:
    run = tracked("csv", **{"run.evaluate_every": 2, "baselines": ["fedmd"]})
    for folder in (run.folder, run.baselines["fedmd"].folder):
        rows = rows_of(folder)
        assert [int(row["round"]) for row in rows] == [0, 1, 2]
        for name in ("accuracy_mean", "accuracy_worst", "distil_loss", "train_loss", "bytes_up", "bytes_down"):
            assert [(int(r["round"]), float(r[name])) for r in rows if r[name]] == numbers(folder, name)
    last = run.rounds[-1].accuracy_quantiles
    assert last is not None
    rows = rows_of(run.folder)
    assert [float(rows[-1][f"accuracy_quantile_{q}"]) for q in (10, 50, 90)] == list(last)


def test_tensorboard_reads_scalars_settings_and_the_summary() -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = tracked("tensorboard", baselines=["fedmd"])
    for one, name in ((run, "run"), (run.baselines["fedmd"], "run/fedmd")):
        events = EventAccumulator(str(one.folder / "tensorboard"))
        events.Reload()
        for key in ("accuracy_mean", "accuracy_worst", "distil_loss", "bytes_up"):
            stored = [(event.step, event.value) for event in events.Scalars(key)]
            assert stored == [(step, pytest.approx(value, rel=1e-6)) for step, value in numbers(one.folder, key)]
        (final,) = events.Scalars("summary/accuracy_mean")
        assert final.value == pytest.approx(one.summary["accuracy_mean"], rel=1e-6)
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        start = HParamsPluginData.FromString(content).session_start_info
        assert start.group_name == name
        assert start.hparams["train.rounds"].number_value == 2
        assert start.hparams["method.name"].string_value == one.config.method_name
        assert start.hparams["proxy.keep"].bool_value is False


def mlflow_runs() -> Iterator[Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("edgefd")
    assert experiment is not None
    yield from client.search_runs([experiment.experiment_id])


def test_mlflow_stores_params_metrics_by_round_and_the_state() -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    run = tracked("mlflow", baselines=["fedmd"])
    stored = {one.info.run_name: one for one in mlflow_runs()}
    for one, name in ((run, "run"), (run.baselines["fedmd"], "run/fedmd")):
        entry = stored.pop(name)
        assert entry.info.status == "FINISHED"
        assert entry.data.params["train.rounds"] == "2"
        assert entry.data.params["method.name"] == entry.data.tags["edgefd.method"] == one.config.method_name
        assert entry.data.metrics["summary/bytes_up"] == one.summary["bytes_up"]
        for key in ("accuracy_mean", "distil_loss", "bytes_down"):
            history = MlflowClient().get_metric_history(entry.info.run_id, key)
            assert [(metric.step, metric.value) for metric in history] == numbers(one.folder, key)
    assert stored == {}


def wandb_records(folder: Path) -> list[Any]:
    """The records of a finished run; W&B's own process writes the last ones a moment after the run has ended."""
    until(lambda: any(r.WhichOneof("record_type") == "exit" for r in read_wandb(folder)), 30)
    return list(read_wandb(folder))


def read_wandb(folder: Path) -> Iterator[Any]:
    """Read a file of W&B's offline mode: blocks of 32 KiB with chunks of a 7-byte head, as in a log of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    data, at, whole = path.read_bytes(), 7, b""  # the file begins with 7 bytes of its own
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block that is too short for a head
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            yield Record.FromString(whole)
            whole = b""


def test_wandb_stores_the_config_metrics_by_step_and_the_summary_offline() -> None:
    pytest.importorskip("wandb")
    run = tracked("wandb", baselines=["fedmd"])
    for one, name in ((run, "run"), (run.baselines["fedmd"], "run/fedmd")):
        records = wandb_records(one.folder)
        (start,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        assert (start.project, start.display_name, start.run_group) == ("edgefd", name, "run")
        config = {update.key: json.loads(update.value_json) for update in start.config.update}
        assert config["train"]["rounds"] == 2
        assert config["method"]["name"] == one.config.method_name
        history = []
        for record in records:
            if record.WhichOneof("record_type") == "history":
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                history.append((items["_step"], items))
        for key in ("accuracy_mean", "distil_loss", "bytes_up"):
            assert [(step, items[key]) for step, items in history if key in items] == numbers(one.folder, key)
        updates = [u for r in records if r.WhichOneof("record_type") == "summary" for u in r.summary.update]
        final = {"/".join(u.nested_key) or u.key: json.loads(u.value_json) for u in updates}
        assert final["summary/accuracy_mean"] == one.summary["accuracy_mean"]
        assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [0]


class Stop(edgefd.Callback):
    """Stops the run after its second round, as Ctrl-C does."""

    def on_round(self, metrics: Any) -> None:
        if metrics.round == 1:
            raise KeyboardInterrupt


def test_a_stopped_run_is_stored_as_far_as_it_came() -> None:
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt, match="done so far \\(2\\)"):
        edgefd.simulate(SMALL, {"run.trackers": list(PACKAGES), "run.workers": 2}, out="run", callbacks=[Stop()])
    folder = Path("run")
    (entry,) = mlflow_runs()
    assert entry.info.status == "KILLED"
    assert entry.data.metrics["summary/complete"] == 0
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("summary/complete")] == [0]
    assert [r.exit.exit_code for r in wandb_records(folder) if r.WhichOneof("record_type") == "exit"] == [1]


@pytest.mark.slow
def test_a_killed_run_is_stored_as_far_as_it_came() -> None:
    for package in ("tensorboard", "mlflow"):
        pytest.importorskip(package)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    program = f"""
import os, edgefd
class Die(edgefd.Callback):
    def on_round(self, metrics):
        if metrics.round == 2:
            os.kill(os.getpid(), 9)
edgefd.simulate({SMALL!r}, {{"run.trackers": ["csv", "tensorboard", "mlflow"]}}, callbacks=[Die()], out="run")
"""
    paths = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    done = subprocess.run([sys.executable, "-c", program], env=paths, timeout=200, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 1 + 2  # Die is called before the trackers
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    assert [event.step for event in events.Scalars("bytes_up")] == [0, 1]
    (entry,) = mlflow_runs()
    assert entry.info.status == "RUNNING"
    assert entry.data.metrics["accuracy_mean"] == numbers(Path("run"), "accuracy_mean")[1][1]
    resumed = edgefd.simulate(resume="run")
    expected = numbers(resumed.folder, "accuracy_mean")
    assert [step for step, _ in expected] == [0, 1, 2]
    rows = rows_of(Path("run"))
    assert [(int(row["round"]), float(row["accuracy_mean"])) for row in rows] == expected
    events = EventAccumulator("run/tensorboard")  # of both processes
    events.Reload()
    assert [event.step for event in events.Scalars("bytes_up")] == [0, 1, 2]
    assert sorted(entry.info.status for entry in mlflow_runs()) == ["FINISHED", "RUNNING"]


def test_trackers_change_no_result() -> None:
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package)
    alone = edgefd.simulate(SMALL, {"run.workers": 2, "baselines": ["fedmd"]}, out="alone")
    with_all = edgefd.simulate(
        SMALL, {"run.workers": 2, "run.trackers": list(PACKAGES), "baselines": ["fedmd"]}, out="with_all"
    )
    for a, b in ((alone, with_all), (alone.baselines["fedmd"], with_all.baselines["fedmd"])):
        assert without_times(a.folder) == without_times(b.folder)
        assert a.teacher is not None
        assert b.teacher is not None
        assert a.teacher.equals(b.teacher)
    assert len(edgefd.compare([alone, with_all.folder / "also"], over="run.trackers")) == 2


@pytest.mark.slow
def test_each_run_of_a_sweep_has_its_own_tracker_run() -> None:
    pytest.importorskip("tensorboard")
    grid = {"base": SMALL | {"run": {"trackers": ["csv", "tensorboard"]}}, "grid": {"seed": [0, 1]}}
    folders = run_sweep(load_sweep(grid), Path("sweep"), 2, print)
    for folder in folders:
        assert len((folder / "metrics.csv").read_text().splitlines()) == 4
        assert len(list((folder / "tensorboard").glob("events.*"))) == 1
    with pytest.raises(UserError, match="unknown tracker 'x'"):
        load_sweep(grid, {"run.trackers": ["x"]})


@dataclasses.dataclass(frozen=True, eq=False)
class Fleet:
    """Simulated clients that answer a coordinator; it tells them the end of the run."""

    transport: InProcess

    def exchange(self, *arguments: Any) -> Any:
        return self.transport.exchange(*arguments)

    def finish(self, outcome: str) -> None:
        assert outcome == "complete"


def test_a_coordinator_of_devices_has_the_same_trackers() -> None:
    prepared = prepare(edgefd.load_config(SMALL, {"run.trackers": ["csv"], "run.callbacks": []}))
    federation = prepared.federation
    terms = terms_of(prepared.config, federation)
    served = ServedRun(prepared.config, len(federation.clients), terms, federation.proxy, None, ())
    folder = Path("served")
    folder.mkdir()
    transport = open_transport(prepared.config, federation)
    with closing(transport.pool):
        transport.start()
        opened = OpenRun(served, folder, create_checkpoint(prepared.config, folder), False)
        coordinate(opened, Fleet(transport))  # type: ignore[arg-type]
    rows = rows_of(folder)
    assert [(int(r["round"]), float(r["heldout_accuracy_mean"])) for r in rows] == numbers(
        folder, "heldout_accuracy_mean"
    )
    assert [row["accuracy_mean"] for row in rows] == ["", "", ""]  # devices have no common test set
