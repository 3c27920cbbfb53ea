"""A simulation that was stopped or killed continues to the same bits."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefd.config.load import load_config, parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import Stopped, UserError
from edgefd.core.npz import npz_arrays
from edgefd.methods import get_method, method_names
from edgefd.runs.checkpoint import CHECKPOINT
from edgefd.runs.prepare import prepare
from edgefd.simulation.checkpoint import load_client, locked, save_client
from edgefd.simulation.engine import make_simulation_state
from edgefd.simulation.run import Run, simulate_config
from tests.golden.golden import OF_ONE_MODEL
from tests.support.commands import command, env
from tests.support.run_results import StopAfter, results

QUICK = ("edgefd", "cosmos", "feddf", "kt_pfl")
"""methods with a model, a state or a memory at the server, or none"""


def config(method: str = "edgefd", workers: int = 0, **sections: Any) -> Config:
    models = [{"name": "mlp"}, {"name": "linear"}]
    run = {"workers": workers, "checkpoint_every": 1, "keep": "all", **sections.pop("run", {})}
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 300},
            "partition": {"name": "weak", "n_clients": 4},
            "model": models[:1] if get_method(method).message in OF_ONE_MODEL else models,
            "method": {"name": method, **({"n_clusters": 4} if method == "edgefd" else {})},
            "train": {"rounds": 4, "optimizer": "adam"},
            "run": run,
            **sections,
        }
    )


def stopped(c: Config, folder: Path, after: int) -> None:
    """Stop a run after a number of rounds."""

    with pytest.raises(Stopped):
        simulate_config(c, folder, callbacks=[StopAfter(after)])


def whole_and_resumed(c: Config, tmp_path: Path, after: int = 2) -> tuple[Run, Run]:
    whole = simulate_config(c, tmp_path / "whole")
    stopped(c, tmp_path / "resumed", after)
    places = list((tmp_path / "resumed" / "checkpoint").iterdir())
    assert len(places) == 1
    if c.coordinator.lateness:
        assert npz_arrays((places[0] / "server.npz").read_bytes(), 2**20)["late"] != "[]"
    return whole, simulate_config(c, tmp_path / "resumed", resume=True)


def check_same(whole: Run, resumed: Run) -> None:
    assert results(whole.folder) == results(resumed.folder)
    assert not (resumed.folder / "checkpoint").exists()
    assert whole.teacher is None or (resumed.teacher is not None and whole.teacher.equals(resumed.teacher))
    assert [m.round for m in resumed.rounds] == [m.round for m in whole.rounds]


@pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in method_names()]
)
def test_a_stopped_run_of_each_method_continues_to_the_same_bits(tmp_path: Path, method: str) -> None:
    check_same(*whole_and_resumed(config(method), tmp_path))


@pytest.mark.parametrize(
    "sections",
    [
        {"coordinator": {"min_reports": 1, "dropout": 0.1, "lateness": 0.3, "stale_reports": "use"}, "seed": 1},
        {"coordinator": {"fraction": 0.5}, "run": {"keep": "best", "evaluate_every": 2}},
        {"selection": {"name": "ddk", "budget": 0.5}},
        {
            **{"model": {"name": "mlp", "heads": 2}, "run": {"keep": "best"}},
            "train": {"rounds": 4, "adjusted_steps": 0},
        },
        {"train": {"rounds": 4, "initial": "own", "local_steps": 2}, "workers": 2},
        {"run": {"patience": 1, "checkpoint_every": 2}},
        {
            "devices": {"fleet": {"pi_5": 1, "pi_4": 2, "phone": 1}},
            "coordinator": {"min_reports": 2, "stale_reports": "buffer"},
        },
        {"run": {"learner": "onnx"}},
        {"run": {"record_knowledge": True, "record_every": 1}},
        {
            "codec": {"name": "simplex15", "changes_above": 0.05},
            "coordinator": {"min_reports": 1, "dropout": 0.1, "lateness": 0.3, "stale_reports": "use"},
            "seed": 1,
        },
    ],
    ids=[
        *("late reports", "fraction", "selection", "two heads", "workers", "patience", "devices", "onnx", "recorded"),
        "changes",
    ],
)
def test_every_state_of_a_run_is_in_its_checkpoint(tmp_path: Path, sections: dict[str, Any]) -> None:
    check_same(*whole_and_resumed(config(**sections), tmp_path, after=3))


def test_the_keys_of_the_noise_are_in_a_checkpoint(tmp_path: Path) -> None:
    """A resumed run would otherwise repeat the votes of PATE with new noise, and spend their budget twice."""
    pate = config("fedmd", proxy={"source": "public"}, defence={"name": "pate"})
    federation = prepare(pate).federation
    before, after = (make_simulation_state(pate, federation) for _ in range(2))
    assert not np.array_equal(before.noise_keys, after.noise_keys)
    for client in range(len(federation.clients)):
        save_client(before, client, tmp_path)
        load_client(after, client, tmp_path)
    assert np.array_equal(before.noise_keys, after.noise_keys)


def test_rounds_after_the_last_checkpoint_are_repeated(tmp_path: Path) -> None:
    c = config(run={"checkpoint_every": 3})
    whole = simulate_config(c, tmp_path / "whole")
    for after in (2, 4):  # before the first checkpoint, and a round after it
        stopped(c, tmp_path / f"{after}", after)
        check_same(whole, simulate_config(c, tmp_path / f"{after}", resume=True))


def test_finished_methods_are_not_repeated(tmp_path: Path) -> None:
    c = config(baselines=["fedmd", "indlearn"])
    whole = simulate_config(c, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "also" / "indlearn")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json*")}
    resumed = simulate_config(c, tmp_path / "run", resume=True)
    check_same(whole, resumed)
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    for loaded, final in zip(resumed.weights, whole.weights, strict=True):
        assert loaded.keys() == final.keys()
        assert all(np.array_equal(loaded[name], values) for name, values in final.items())
    for name, run in whole.baselines.items():
        assert resumed.baselines[name].rounds[0].accuracy_mean == run.rounds[0].accuracy_mean


def test_a_changed_config_is_refused_with_the_key(tmp_path: Path) -> None:
    stopped(config(), tmp_path / "run", 1)
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))
    with pytest.raises(UserError, match=r"train\.rounds was 4, and is 5"):
        simulate_config(config(train={"rounds": 5, "optimizer": "adam"}), tmp_path / "run", resume=True)
    with pytest.raises(UserError, match=r"proxy\.alpha was 0\.1, and is 0\.2"):
        simulate_config(config(proxy={"alpha": 0.2}), tmp_path / "run", resume=True)
    with pytest.raises(UserError, match="seed was 0, and is 7"):
        simulate_config(load_config(path), tmp_path / "run", resume=True)
    (tmp_path / "run" / CHECKPOINT).unlink()
    with pytest.raises(UserError, match="seed was 7, and is 0"):
        simulate_config(config(), tmp_path / "run", resume=True)


def test_the_rules_of_participation_may_change_and_the_run_folder_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(config(), tmp_path / "run", 2)
    rules = {"min_reports": 1, "dropout": 0.5}
    with caplog.at_level(logging.INFO):
        resumed = simulate_config(config(coordinator=rules), tmp_path / "run", resume=True)
    assert "coordinator.min_reports was None, and is 1 in the rounds to come" in caplog.text
    assert load_config(tmp_path / "run" / "config.yaml").coordinator.min_reports == 1
    reports = [sum(kept is not None for kept in m.kept_per_client) for m in resumed.rounds]
    assert reports[:2] == [4, 4]
    assert min(reports[2:4]) < 4


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    none = config(run={"checkpoint_every": 0})
    stopped(none, tmp_path / "none", 1)
    with pytest.raises(UserError, match=r"has no checkpoint, because run\.checkpoint_every=0"):
        simulate_config(none, tmp_path / "none", resume=True)
    with pytest.raises(UserError, match="Ray engine writes no checkpoints"):
        simulate_config(config(), tmp_path / "none", "ray", resume=True)
    stopped(config(), tmp_path / "run", 1)
    with locked(tmp_path / "run"), pytest.raises(UserError, match="another process is at work"):
        simulate_config(config(), tmp_path / "run", resume=True)
    damaged = tmp_path / "run" / "checkpoint" / "0000" / "client-001.npz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"client-001\.npz is damaged"):
        simulate_config(config(), tmp_path / "run", resume=True)


def test_changed_data_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.random((80, 4)), "y_train": np.arange(80) % 2, "x_test": rng.random((20, 4))}
    c = config(data={"name": str(tmp_path / "d.npz")}, model="linear", partition={"name": "iid", "n_clients": 2})
    np.savez(tmp_path / "d.npz", **arrays, y_test=np.arange(20) % 2)
    stopped(c, tmp_path / "run", 1)
    np.savez(tmp_path / "d.npz", **arrays, y_test=np.arange(20) % 2 == 0)
    with pytest.raises(UserError, match=r"the data of the run in .* have changed since it began"):
        simulate_config(c, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_continues_to_the_same_bits(tmp_path: Path) -> None:
    """The process is killed with SIGKILL at random moments after its start-up; the seed of the moments is printed."""
    seed = int(os.environ.get("EDGEFD_KILL_SEED", time.time_ns() % 10**6))
    n_kills = int(os.environ.get("EDGEFD_KILLS", "4"))
    print(f"seed of the moments: {seed}")
    rng = random.Random(seed)
    c = config(workers=2, run={"keep": "best"}, baselines=["fedgems"], train={"rounds": 25, "local_steps": 20})
    (tmp_path / "config.yaml").write_text(json.dumps(c.to_dict()))
    seconds = run_until(tmp_path, "whole", None)
    expected, reached = results(tmp_path / "whole"), []
    for kill in range(n_kills):
        name = f"run{kill // 2}"  # each run is killed twice, the second time after it was resumed
        moment = rng.uniform(0, seconds)
        run_until(tmp_path, name, moment)
        rounds = {path.parent.name: len(path.read_text().splitlines()) for path in tmp_path.glob(f"{name}/**/*.jsonl")}
        reached.append(f"{name}, {moment:.1f} of {seconds:.1f} s: rounds {rounds}")
        if kill % 2 or kill == n_kills - 1:
            run_until(tmp_path, name, None)
            assert results(tmp_path / name) == expected, reached
            shutil.rmtree(tmp_path / name)
    print("\n".join(reached))


def run_until(folder: Path, name: str, seconds: float | None) -> float:
    """Start or continue a run, and kill it some seconds after it has begun; None = let it end. Return its seconds."""
    process = subprocess.Popen(
        command("simulate", "config.yaml", "--resume", name), cwd=folder, env=env({}), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # the data: torch is imported, and the folder of a new run exists
    start = time.perf_counter()
    try:
        process.communicate(timeout=300 if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # its workers end, too: they hold the pipe
    else:
        assert process.returncode == 0
    return time.perf_counter() - start
