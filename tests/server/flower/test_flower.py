"""`edgefd serve flower` with a real SuperLink and stock SuperNodes."""

import hashlib
import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")
from edgefd.rounds.loop import RoundResult, run_rounds
from edgefd.runs.execute import make_server
from edgefd.simulation.engine import open_transport
from edgefd.wire import messages as wire
from tests.support.flower_federation import FlowerFederation, flower_federation, processes, remaining_processes
from tests.support.proxy import proxy
from tests.support.waiting import free_port

N, ROUNDS = 3, 3


def rounds(fl: FlowerFederation) -> list[RoundResult]:
    """Return the rounds of the in-process engine."""
    config, federation = fl.exported.prepared.config, fl.exported.prepared.federation
    transport = open_transport(config, federation)
    with closing(transport.pool):
        transport.start()
        return list(run_rounds(make_server(config, federation), transport))


def simulated_bytes(fl: FlowerFederation) -> list[tuple[int, int]]:
    """Return the bytes that the in-process engine counts in each round, up and down."""
    return [(r.exchange.bytes_up, r.exchange.bytes_down) for r in rounds(fl)]


def simulated(fl: FlowerFederation) -> dict[int, str]:
    """Return the digests of the teachers that the in-process engine sends to the clients, by round."""
    codec = fl.exported.read().manifest.terms.codec
    sent = {r.plan.round + 1: r.teacher for r in rounds(fl) if not r.plan.closing}
    assert set(sent) == set(range(1, ROUNDS + 1))
    return {
        round: hashlib.sha256(wire.encode(teacher, codec)).hexdigest()
        for round, teacher in sent.items()
        if teacher is not None
    }


def metrics(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("codec", [{}, {"name": "simplex15", "changes_above": 0.02}], ids=["all rows", "changes"])
def test_flower_the_device_link_and_the_simulation_have_the_same_teachers(
    codec: dict[str, Any], tmp_path: Path
) -> None:
    port = free_port()
    with flower_federation(tmp_path, nodes=(0, 1, 2), **codec) as fl:
        server = fl.server("flower", "flower", "--superlink", f"127.0.0.1:{port}", "--certs", str(fl.certs))
        stranger = fl.supernode("stranger", 0, port, unknown_key(fl))
        assert stranger.wait(90) > 0, fl.all_logs()  # it ended by itself
        assert "Failed to activate SuperNode" in fl.log("stranger")
        assert not (tmp_path / "stranger-state").exists()
        for client in range(N):
            fl.node(f"node{client}", client, port)
        assert fl.wait(server, port) == 0, fl.all_logs()
        assert fl.teachers("flower") == simulated(fl)
        assert {e["client"] for e in fl.events("flower", "node")} == {0, 1, 2}
        assert fl.events("flower", "refused") == []
        for node in fl.nodes.values():
            node.terminate()
        for client in range(N):
            options = ["--bundle", str(fl.exported.bundle), "--client", str(client), "--server", f"127.0.0.1:{port}"]
            fl.device(f"device{client}", client, *options)
        server = fl.server("link", "grpc", "--listen", f"127.0.0.1:{port}")
        assert server.wait(90) == 0, fl.log("link")
        assert fl.teachers("link") == fl.teachers("flower")
        assert metrics(tmp_path / "link") == metrics(tmp_path / "flower")
        bytes_of = [(line["bytes_up"], line["bytes_down"]) for line in metrics(tmp_path / "link")]
        assert bytes_of == simulated_bytes(fl)
    assert remaining_processes(f"127.0.0.1:{port}", str(tmp_path)) == {}


@pytest.mark.slow
def test_flower_on_this_machine_uses_no_proxy(tmp_path: Path) -> None:
    port = free_port()
    with proxy() as used, flower_federation(tmp_path, nodes=(0, 1, 2)) as fl:
        options = ("--superlink", f"127.0.0.1:{port}", "--certs", str(fl.certs))
        server = fl.server("flower", "flower", *options, **used.variables)
        for client in range(N):
            fl.node(f"node{client}", client, port)
        assert fl.wait(server, port) == 0, fl.all_logs()
        assert used.calls == []


def unknown_key(fl: FlowerFederation) -> Path:
    """Create the key of a node that the coordinator does not know."""
    from edgefd_server import certs

    other = fl.folder / "others"
    certs.init(other, ["localhost"], 2)
    return certs.add_node(other, "stranger", 0) / "node.key"


@pytest.mark.slow
def test_a_killed_superlink_is_started_again_in_a_federation_of_nodes_and_devices(tmp_path: Path) -> None:
    port, link_port = free_port(), free_port()
    with flower_federation(tmp_path, nodes=(0, 1), devices=(2,)) as fl:
        options = ["--certs", str(fl.certs), "--listen", f"127.0.0.1:{link_port}"]
        server = fl.server("run", "flower", "--superlink", f"127.0.0.1:{port}", *options)
        for client in (0, 1):
            fl.node(f"node{client}", client, port)
        certs = fl.certs / "devices" / "device2"
        fl.device("device2", 2, "--server", f"127.0.0.1:{link_port}", "--certs", str(certs))
        fl.until("run", r"round 0: ")
        running = processes("edgefd_server.flower.superlink_process")
        (superlink,) = [pid for pid, args in running.items() if str(tmp_path) in args]
        os.kill(superlink, signal.SIGKILL)
        fl.until("run", r"Flower died in round 1: starting it again from the checkpoint")
        assert fl.wait(server, port) == 0, fl.all_logs()
        assert fl.teachers("run") == simulated(fl)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["complete"], summary["rounds"]) == (True, ROUNDS)
        fl.until("device2", "the run is complete", 30)
    assert remaining_processes(f"127.0.0.1:{port}", str(tmp_path)) == {}


@pytest.mark.slow
def test_no_process_remains_after_ctrl_c_or_kill_9(tmp_path: Path) -> None:
    port = free_port()
    with flower_federation(tmp_path, nodes=(0, 1, 2)) as fl:
        options = ["--superlink", f"127.0.0.1:{port}", "--certs", str(fl.certs)]
        server = fl.server("run", "flower", *options)
        fl.until("run", "waiting for 3 clients")
        assert len(processes(f"127.0.0.1:{port}")) >= 3
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130, fl.log("run")
        assert "stopped; not one round was done" in fl.log("run")
        assert remaining_processes(f"127.0.0.1:{port}", str(tmp_path), seconds=0) == {}
        server = fl.server("run", "flower", *options, "--resume")
        fl.until("run", "(?s)waiting for 3 clients.*waiting for 3 clients")
        server.kill()
        server.wait(10)
        assert remaining_processes(f"127.0.0.1:{port}", str(tmp_path)) == {}


@pytest.mark.slow
def test_an_error_of_the_serverapp_is_one_line_and_leaves_no_run_folder(tmp_path: Path) -> None:
    with flower_federation(tmp_path, nodes=()) as fl:
        other = fl.server("other", "grpc", "--listen", "127.0.0.1:0")
        port = fl.until("other", r"on port (\d+)")
        options = ["--superlink", "127.0.0.1:0", "--listen", f"127.0.0.1:{port}"]
        server = fl.server("run", "flower", *options)
        assert server.wait(120) == 2, fl.log("run")
        assert fl.log("run").splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1:{port}")
        assert not (tmp_path / "run").exists()
        assert other.poll() is None
    assert remaining_processes(str(tmp_path)) == {}
