"""The Ray engine: the results of the local engine, and no process left behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from edgefd.config.load import load_config
from edgefd.simulation.run import simulate_config
from tests.support.commands import QUICKSTART, command, edgefd, env
from tests.support.proxy import proxy
from tests.support.ray_node import LOOPBACK, kill_node, ray_cluster
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


def listening(pids: Iterable[int]) -> set[str]:
    """Return the addresses, in hexadecimal, on which these processes accept TCP connections. Linux only."""
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").glob("*") if link.is_socket()]
    sockets = {os.stat(link).st_ino for link in links if link.exists()}
    rows = [row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and int(row[9]) in sockets}


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


@pytest.mark.slow  # a cluster of four nodes starts, and one of them has to die
def test_a_cluster_gives_the_same_bits_if_a_node_dies_and_keeps_running(tmp_path: Path) -> None:
    work = tmp_path / "work"  # of the driver; the nodes do not run there
    work.mkdir()
    shutil.copy(ROOT / "edgefd" / "data" / "mnist_mini.npz", work / "mine.npz")
    few = ("baselines=[]", "data.limit=600", "partition.name=weak", "partition.n_clients=6", "model.name=mlp")
    small = (*few, "method.n_clusters=4", "train.rounds=5", "run.evaluate_every=1", "data.name=mine.npz")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, ray_cluster(Path(folder), [1, 1, 1]) as (address, nodes):
        arguments = command("simulate", QUICKSTART, *small, "--engine", "ray", "--out", "ray")
        environment = env(LOOPBACK | {"PYTHONPATH": PATHS, "RAY_ADDRESS": address})
        driver = subprocess.Popen(arguments, cwd=work, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            local = load_config(QUICKSTART, [*small[:-1], "run.workers=0"])
            simulate_config(local, tmp_path / "local")
            file = work / "ray" / "metrics.jsonl"
            until(lambda: driver.poll() is not None or (file.exists() and file.read_text().count("\n") >= 2), 150)
            kill_node(nodes[0])
            _, log = driver.communicate(timeout=90)
        finally:
            driver.kill()
        assert driver.returncode == 0, log
        assert live_nodes(address) == 3, "the engine must not end a cluster that it did not start"
    assert "Ray: 3 nodes with 3 cores take part" in log
    assert re.search("a process or node of Ray died, so client [0-5] runs again", log)
    assert rounds(work / "ray") == rounds(tmp_path / "local")
    assert_no_process_left(tmp_path)


def live_nodes(address: str) -> int:
    """Return the number of live nodes of the cluster, with its head."""
    program = (
        "import ray; ray.init(log_to_driver=False, logging_level='error'); print(sum(n['Alive'] for n in ray.nodes()))"
    )
    environment = env(LOOPBACK | {"RAY_ADDRESS": address})
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    return int(result.stdout)


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
def test_ctrl_c_ends_all_processes_of_a_ray_run_which_listen_on_127_0_0_1_alone(tmp_path: Path) -> None:
    arguments = command("simulate", QUICKSTART, *SMALL, "train.rounds=1000", "--engine", "ray", "--out", "r")
    process = subprocess.Popen(arguments, cwd=tmp_path, env=env({"PYTHONPATH": PATHS}), stderr=subprocess.PIPE)
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    addresses = listening(marked(tmp_path))
    assert addresses, "Ray's servers listen somewhere"
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}, "127.0.0.1, as IPv4 and within IPv6"
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
