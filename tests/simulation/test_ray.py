"""The Ray engine gives the local engine's results, and leaves nothing running."""

import json
import os
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
from tests.support.waiting import free_port, until

SMALL = (
    *("baselines=[]", "data.limit=1200", "partition.name=weak", "partition.n_clients=4", "method.n_clusters=10"),
    *("train.rounds=3", "model.name=cnn_edge", "run.evaluate_every=1"),
)
ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / part) for part in (".", "proto", "server", "client"))


@pytest.fixture(autouse=True)
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test starts, and whatever that starts in turn, has the test's folder in its environment."""
    monkeypatch.setenv("EDGEFD_TEST", str(tmp_path))


def nothing_is_left(folder: Path, seconds: float = 15.0) -> None:
    """No process of the test in that folder, whoever its parent is, once they had time to end."""
    deadline = time.monotonic() + seconds
    while (left := marked(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == {}


def marked(folder: Path) -> dict[int, str]:
    """Processes of the test in that folder but this one: their command lines. Linux only."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"EDGEFD_TEST={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_text()
        except OSError:  # it has ended
            continue
    return {pid: line for pid, line in found.items() if pid != os.getpid()}


def rounds(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.slow
def test_ray_gives_the_bits_of_the_local_engine(tmp_path: Path) -> None:
    for engine, more in (("ray", ()), ("local", ("run.workers=0",))):
        arguments = ("simulate", QUICKSTART, *SMALL, *more, "--engine", engine, "--out", engine)
        done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=PATHS)
        assert done.returncode == 0, done.stdout + done.stderr
    assert rounds(tmp_path / "ray") == rounds(tmp_path / "local")
    assert rounds(tmp_path / "ray")[0]["kept_fraction"] > 1.5 / 4  # claims of other clients' rows as well
    nothing_is_left(tmp_path)


@pytest.mark.slow
def test_an_existing_cluster_of_two_nodes_gives_the_same_bits_and_lives_on(tmp_path: Path) -> None:
    local = edgefd("simulate", QUICKSTART, *SMALL, "run.workers=0", "--out", "local", cwd=tmp_path, PYTHONPATH=PATHS)
    assert local.returncode == 0, local.stderr
    with cluster() as address:
        arguments = ("simulate", QUICKSTART, *SMALL, "--engine", "ray", "--out", "ray")
        done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=PATHS, RAY_ADDRESS=address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert nodes(address) == 2, "the cluster is not ours to end"
    assert rounds(tmp_path / "ray") == rounds(tmp_path / "local")
    nothing_is_left(tmp_path)


@contextmanager
def cluster() -> Iterator[str]:
    """A head with no core and a node with one, so that clients run on another node than the server."""
    address = f"127.0.0.1:{free_port()}"
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    head = ["--head", "--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", "--include-dashboard=false"]
    environment = env({"PYTHONPATH": PATHS})
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        started = [subprocess.Popen([*ray, *head, "--num-cpus=0", f"--temp-dir={folder}"], env=environment, **quiet)]
        try:
            until(lambda: nodes(address) == 1)
            started.append(subprocess.Popen([*ray, f"--address={address}", "--num-cpus=1"], env=environment, **quiet))
            until(lambda: nodes(address) == 2)
            yield address
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(20)


def nodes(address: str) -> int:
    """How many nodes of the cluster are alive; 0 if nothing answers."""
    program = (
        "import ray; ray.init(log_to_driver=False, logging_level='error'); print(sum(n['Alive'] for n in ray.nodes()))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env({"RAY_ADDRESS": address}), timeout=60
    )
    return int(asked.stdout) if asked.returncode == 0 else 0


@pytest.mark.slow
def test_a_failing_client_ends_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    # a learning rate that overflows: the client's logits are no longer finite
    arguments = ("simulate", QUICKSTART, *SMALL, "train.lr=1e30", "train.optimizer=sgd", "train.local_steps=5")
    done = edgefd(*arguments, "--engine", "ray", "--out", "r", cwd=tmp_path, PYTHONPATH=PATHS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "client" in done.stderr
    assert "Traceback" not in done.stderr
    nothing_is_left(tmp_path)


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
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
    nothing_is_left(tmp_path)
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["complete"] is False


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    arguments = ("simulate", QUICKSTART, "--engine", "ray")
    done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=PATHS, RAY_ADDRESS=address)
    assert done.returncode == 2
    assert time.monotonic() - began < 30
    assert done.stderr.startswith(f"error: RAY_ADDRESS={address}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_answers_but_is_no_cluster_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        began = time.monotonic()
        done = edgefd("simulate", QUICKSTART, "--engine", "ray", cwd=tmp_path, PYTHONPATH=PATHS, RAY_ADDRESS=address)
    assert done.returncode == 2
    assert time.monotonic() - began < 30
    assert "is no Ray cluster" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_missing_extra_is_named(tmp_path: Path) -> None:
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
