"""The Ray engine: the results of the local engine, and no process left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import QUICKSTART, command, edgefd, env
from tests.support.proxy import proxy
from tests.support.waiting import free_port, until

SMALL = (
    *("baselines=[]", "data.limit=1200", "partition.name=weak", "partition.n_clients=4", "method.n_clusters=10"),
    *("train.rounds=3", "model.name=cnn_edge", "run.evaluate_every=1"),
)
ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / part) for part in (".", "proto", "server", "client"))


@pytest.fixture(autouse=True)
def mark_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the test's folder into the environment of every process that the test starts, directly or indirectly."""
    monkeypatch.setenv("EDGEFD_TEST", str(tmp_path))


def assert_no_process_left(folder: Path, seconds: float = 15.0) -> None:
    """Check that all processes of the test with that folder end, whatever their parent is."""
    deadline = time.monotonic() + seconds
    while (left := marked(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == {}


def marked(folder: Path) -> dict[int, str]:
    """Return the command lines of the test's other processes, by process id. Linux only."""
    lines = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"EDGEFD_TEST={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                lines[int(process.name)] = (process / "cmdline").read_text()
        except OSError:  # the process has ended
            continue
    return {pid: line for pid, line in lines.items() if pid != os.getpid()}


def rounds(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.slow
def test_the_ray_engine_gives_the_bits_of_the_local_engine(tmp_path: Path) -> None:
    absent = ("coordinator.fraction=0.75", "train.catch_up=3", "codec.name=simplex15", "codec.changes_above=0.02")
    for engine, more in (("ray", ()), ("local", ("run.workers=0",))):
        arguments = ("simulate", QUICKSTART, *SMALL, *absent, *more, "--engine", engine, "--out", engine)
        done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=PATHS)
        assert done.returncode == 0, done.stdout + done.stderr
    assert rounds(tmp_path / "ray") == rounds(tmp_path / "local")
    assert 1 / 4 < rounds(tmp_path / "ray")[0]["kept_fraction"] < 1  # clients accept rows of other classes too
    assert_no_process_left(tmp_path)


@pytest.mark.slow
def test_the_processes_of_ray_on_this_machine_use_no_proxy(tmp_path: Path) -> None:
    arguments = ("simulate", QUICKSTART, *SMALL, "train.rounds=1", "--engine", "ray")
    with proxy() as used:
        done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=PATHS, **used.variables)
    assert done.returncode == 0, done.stdout + done.stderr
    clouds = ("169.254.169.254", "metadata.google.internal")  # Ray asks there which cloud it is in
    assert [call for call in used.calls if not any(host in call for host in clouds)] == []
    assert_no_process_left(tmp_path)


@pytest.mark.slow
def test_an_existing_cluster_of_two_nodes_gives_the_same_bits_and_keeps_running(tmp_path: Path) -> None:
    shutil.copy(ROOT / "edgefd" / "data" / "mnist_mini.npz", tmp_path / "mine.npz")
    small = (*SMALL, "data.name=mine.npz")  # the nodes of the cluster do not run in the folder of this file
    local = edgefd("simulate", QUICKSTART, *small, "run.workers=0", "--out", "local", cwd=tmp_path, PYTHONPATH=PATHS)
    assert local.returncode == 0, local.stderr
    with cluster() as address:
        arguments = ("simulate", QUICKSTART, *small, "--engine", "ray", "--out", "ray")
        done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=PATHS, RAY_ADDRESS=address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert nodes(address) == 2, "the engine must not end a cluster that it did not start"
    assert rounds(tmp_path / "ray") == rounds(tmp_path / "local")
    assert_no_process_left(tmp_path)


@contextmanager
def cluster() -> Iterator[str]:
    """Start a head without cores and a node with one core, so that clients run on another node than the server."""
    address = f"127.0.0.1:{free_port()}"
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    ignore_line: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "start_new_session": True,
    }
    head = ["--head", "--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", "--include-dashboard=false"]
    environment = env({"PYTHONPATH": PATHS})
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        started = [
            subprocess.Popen([*ray, *head, "--num-cpus=0", f"--temp-dir={folder}"], env=environment, **ignore_line)
        ]
        try:
            until(lambda: nodes(address) == 1)
            started.append(
                subprocess.Popen([*ray, f"--address={address}", "--num-cpus=1"], env=environment, **ignore_line)
            )
            until(lambda: nodes(address) == 2)
            yield address
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(20)


def nodes(address: str) -> int:
    """Return the number of live nodes of the cluster; 0 without an answer."""
    program = (
        "import ray; ray.init(log_to_driver=False, logging_level='error'); print(sum(n['Alive'] for n in ray.nodes()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env({"RAY_ADDRESS": address}), timeout=60
    )
    return int(result.stdout) if result.returncode == 0 else 0


@pytest.mark.slow
def test_a_failing_client_ends_the_ray_run_and_all_its_processes(tmp_path: Path) -> None:
    # the learning rate overflows, so the client's logits are not finite
    arguments = ("simulate", QUICKSTART, *SMALL, "train.lr=1e30", "train.optimizer=sgd", "train.local_steps=5")
    done = edgefd(*arguments, "--engine", "ray", "--out", "r", cwd=tmp_path, PYTHONPATH=PATHS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "client" in done.stderr
    assert "Traceback" not in done.stderr
    assert_no_process_left(tmp_path)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_of_a_ray_run(tmp_path: Path) -> None:
    arguments = command("simulate", QUICKSTART, *SMALL, "train.rounds=1000", "--engine", "ray", "--out", "r")
    process = subprocess.Popen(arguments, cwd=tmp_path, env=env({"PYTHONPATH": PATHS}), stderr=subprocess.PIPE)
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert_no_process_left(tmp_path)
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["complete"] is False


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_reported_in_one_line(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ("simulate", QUICKSTART, "--engine", "ray")
    done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=PATHS, RAY_ADDRESS=address)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: RAY_ADDRESS={address}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_that_is_no_ray_cluster_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = edgefd("simulate", QUICKSTART, "--engine", "ray", cwd=tmp_path, PYTHONPATH=PATHS, RAY_ADDRESS=address)
    assert done.returncode == 2
    assert "is no Ray cluster" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_error_without_ray_names_the_extra_to_install(tmp_path: Path) -> None:
    program = (
        "import edgefd.core.errors as e; find = e.find_spec\n"
        "e.find_spec = lambda name: None if name == 'ray' else find(name)\n"
        "from edgefd.cli.main import main; main()"
    )
    arguments = [sys.executable, "-c", program, "simulate", QUICKSTART, "--engine", "ray"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=env({"PYTHONPATH": PATHS}))
    assert done.returncode == 2
    assert "pip install 'edgefd[ray]'" in done.stderr
    assert done.stderr.count("\n") == 1
