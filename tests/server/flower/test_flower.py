"""`edgefd server --flower` with a real SuperLink and stock SuperNodes."""

import hashlib
import json
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("flwr")
from edgefd.rounds.loop import run_rounds
from edgefd.runs.execute import make_plans
from edgefd.simulation.engine import open_transport
from edgefd.wire import messages as wire
from tests.support.flower_federation import Place, free_port, gone, place, processes

N, ROUNDS = 3, 3


def simulated(here: Place) -> dict[int, str]:
    """Digests of the teachers that the in-process engine sends out, by round."""
    config, federation = here.made.prepared.config, here.made.prepared.federation
    transport = open_transport(config, federation)
    with closing(transport.pool):
        transport.start()
        results = list(run_rounds(config.method, config.method_config, transport, make_plans(config, federation)))
    sent = {r.plan.round + 1: r.teacher for r in results if not r.plan.closing}
    assert set(sent) == set(range(1, ROUNDS + 1))
    return {
        round: hashlib.sha256(wire.encode(teacher, config.codec.name)).hexdigest()
        for round, teacher in sent.items()
        if teacher is not None
    }


def metrics(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.slow
def test_flower_device_link_and_simulation_have_the_same_teachers(tmp_path: Path) -> None:
    port = free_port()
    with place(tmp_path, nodes=(0, 1, 2)) as here:
        server = here.server("flower", "--flower", f"127.0.0.1:{port}", "--certs", str(here.certs))
        stranger = here.supernode("stranger", 0, port, a_key(here))
        assert stranger.wait(90) > 0, here.all_said()  # it ended by itself
        assert "Failed to activate SuperNode" in here.said("stranger")
        assert not (tmp_path / "stranger-state").exists()
        for client in range(N):
            here.node(f"node{client}", client, port)
        assert here.wait(server, port) == 0, here.all_said()
        assert here.teachers("flower") == simulated(here)
        assert {e["client"] for e in here.events("flower", "node")} == {0, 1, 2}
        assert here.events("flower", "refused") == []
        for node in here.nodes.values():
            node.terminate()
        for client in range(N):
            options = ["--bundle", str(here.made.bundle), "--client", str(client), "--server", f"127.0.0.1:{port}"]
            here.device(f"device{client}", client, *options)
        bundle = ["--bundle", str(here.made.bundle)]
        server = here.server("link", "--listen", f"127.0.0.1:{port}", *bundle)
        assert server.wait(90) == 0, here.said("link")
        assert here.teachers("link") == here.teachers("flower")
        assert metrics(tmp_path / "link") == metrics(tmp_path / "flower")
    assert gone(f"127.0.0.1:{port}", str(tmp_path)) == {}


def a_key(here: Place) -> Path:
    """That the coordinator does not know."""
    from edgefd_server import certs

    other = here.folder / "others"
    certs.init(other, ["localhost"], 2)
    return certs.add_node(other, "stranger", 0) / "node.key"


@pytest.mark.slow
def test_a_superlink_that_is_killed_is_begun_anew_and_the_federation_may_be_mixed(tmp_path: Path) -> None:
    port, link_port = free_port(), free_port()
    with place(tmp_path, nodes=(0, 1), devices=(2,)) as here:
        options = ["--certs", str(here.certs), "--listen", f"127.0.0.1:{link_port}", "--bundle", str(here.made.bundle)]
        server = here.server("run", "--flower", f"127.0.0.1:{port}", *options)
        for client in (0, 1):
            here.node(f"node{client}", client, port)
        certs = here.certs / "devices" / "device2"
        here.device("device2", 2, "--server", f"127.0.0.1:{link_port}", "--certs", str(certs))
        here.until("run", r"round 0: ")
        found = processes("edgefd_server.flower.superlink_process")
        (superlink,) = [pid for pid, args in found.items() if str(tmp_path) in args]
        os.kill(superlink, signal.SIGKILL)
        here.until("run", r"Flower died in round 1: begun anew")
        assert here.wait(server, port) == 0, here.all_said()
        assert here.teachers("run") == simulated(here)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["complete"], summary["rounds"]) == (True, ROUNDS)
        here.until("device2", "the run is complete", 30)
    assert gone(f"127.0.0.1:{port}", str(tmp_path)) == {}


@pytest.mark.slow
def test_ctrl_c_and_kill_9_leave_no_process(tmp_path: Path) -> None:
    port = free_port()
    with place(tmp_path, nodes=(0, 1, 2)) as here:
        options = ["--flower", f"127.0.0.1:{port}", "--certs", str(here.certs)]
        server = here.server("run", *options)
        here.until("run", "waiting for 3 clients")
        assert len(processes(f"127.0.0.1:{port}")) >= 3
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130, here.said("run")
        assert "stopped; not one round was done" in here.said("run")
        assert gone(f"127.0.0.1:{port}", str(tmp_path), seconds=0) == {}
        server = here.server("run", *options, "--resume")
        here.until("run", "(?s)waiting for 3 clients.*waiting for 3 clients")
        server.kill()
        server.wait(10)
        assert gone(f"127.0.0.1:{port}", str(tmp_path)) == {}


@pytest.mark.slow
def test_what_the_serverapp_refuses_is_one_line_and_leaves_no_run(tmp_path: Path) -> None:
    with place(tmp_path, nodes=()) as here:
        taken = here.server("other", "--listen", "127.0.0.1:0", "--bundle", str(here.made.bundle))
        port = here.until("other", r"on port (\d+)")
        options = ["--flower", "127.0.0.1:0", "--listen", f"127.0.0.1:{port}", "--bundle", str(here.made.bundle)]
        server = here.server("run", *options)
        assert server.wait(120) == 2, here.said("run")
        assert here.said("run").splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1:{port}")
        assert not (tmp_path / "run").exists()
        assert taken.poll() is None
    assert gone(str(tmp_path)) == {}
