"""Kill -9 of the server at any moment: with --resume the run ends as if nothing had happened."""

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import yaml
from edgefd_server.coordinator.checkpoint import load_checkpoint

from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE, DONE
from tests.support.federations import Dealt, dealt, small
from tests.support.fork_server import ForkServer, environment, fork_server, fresh

CLIENTS, ROUNDS = 3, 60
FRESH, TIMED, POINTS = 2, 6, 16
"""kills: of new interpreters and of forks whenever it comes, and at each of so many points in the order of writes"""
IMPORTS = """
import torch
import edgefd_server.serve.folder
from edgefd.cli.main import main
"""
WHERE = environment("proto", "server", "client")


@pytest.fixture
def federation(tmp_path: Path) -> tuple[Dealt, Path]:
    config = small(CLIENTS, ROUNDS, local_steps=40)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    return dealt(config, tmp_path / "federation"), path


def devices(made: Dealt, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The clients, each a process of its own that lives through everything."""
    for client in range(CLIENTS):
        where = ["--bundle", str(made.bundle), "--data", str(made.data[client]), "--state", str(folder / f"s{client}")]
        command = [sys.executable, "-m", "edgefd_client", "run", *where, "--exchange", str(folder / "exchange")]
        with (folder / f"client{client}.log").open("wb") as log:
            yield subprocess.Popen([*command, "--client", str(client)], env=WHERE, stdout=log, stderr=subprocess.STDOUT)


def run(made: Dealt, config: Path, folder: Path, kill: bool) -> list[str]:
    """How each kill found the run: its phases."""
    folder.mkdir()
    exchange, log = folder / "exchange", folder / "servers.log"
    server = ["server", str(config), "--exchange", str(exchange), "--timeout", "60", "--out", str(folder / "run")]
    server += ["--resume"]
    phases: list[str] = []
    seen: dict[Path, str] = {}
    with log.open("wb") as errors, fork_server(IMPORTS, WHERE, errors) as servers:
        clients = list(devices(made, folder))
        try:
            for code in kills(server, servers, errors) if kill else ():
                assert code == -signal.SIGKILL, f"{code}: {log.read_text()}"
                phases.append(phase(exchange))
                look(exchange, seen)
            servers.start(server)
            assert servers.ended() == 0, log.read_text()
            for client, process in enumerate(clients):
                assert process.wait(30) == 0, (folder / f"client{client}.log").read_text()
            look(exchange, seen)
        finally:
            for process in clients:
                if process.poll() is None:
                    process.kill()
                    process.wait(10)
    return phases


def kills(server: list[str], servers: ForkServer, errors: IO[bytes]) -> Iterator[int]:
    """How each server ended that was to be killed."""
    rng = random.Random(5)
    for _ in range(FRESH):
        yield fresh(["edgefd", *server], rng.uniform(0.5, 1.5), WHERE, errors)
    for point in range(POINTS):
        servers.start(server, point)
        yield servers.ended()
    for _ in range(TIMED):
        yield servers.killed(server, rng.uniform(0.05, 0.2))


def phase(exchange: Path) -> str:
    """Where a killed server left the exchange."""
    saved = load_checkpoint(exchange)
    if saved is None:
        return "before the first checkpoint"
    here = exchange / "rounds" / f"{saved.next_round:04d}"
    for name, what in (("counted.json", "collected"), ("plan.bin", "open"), ("teacher.bin", "teacher out")):
        if (here / name).exists():
            return what
    return "between rounds"


def look(exchange: Path, seen: dict[Path, str]) -> None:
    """Everything that devices read or wrote is what it was when it was first seen."""
    for name in ("teacher.bin", "plan.bin", "reports/[0-9]*.bin"):
        for path in exchange.glob(f"rounds/*/{name}"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert seen.setdefault(path, digest) == digest, path


def result(folder: Path) -> tuple[bytes, list[dict[str, object]], dict[str, bytes]]:
    saved = load_checkpoint(folder / "exchange")
    assert saved is not None
    assert saved.teacher is not None
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    files = {
        str(p.relative_to(folder)): p.read_bytes()
        for name in ("teacher.bin", "reports/*.bin")
        for p in folder.glob(f"exchange/rounds/*/{name}")
    }
    return wire.encode(saved.teacher, "float32"), lines, files


@pytest.mark.slow
def test_kill_9_of_the_server_at_any_point_changes_nothing(federation: tuple[Dealt, Path], tmp_path: Path) -> None:
    made, config = federation
    run(made, config, tmp_path / "calm", kill=False)
    phases = run(made, config, tmp_path / "killed", kill=True)
    counts = {p: phases.count(p) for p in sorted(set(phases))}
    print(f"{len(phases)} kills: {counts}")
    assert set(counts) >= {"between rounds", "teacher out", "open", "collected"}
    killed, calm = result(tmp_path / "killed"), result(tmp_path / "calm")
    assert killed[0] == calm[0]
    assert [line["round"] for line in killed[1]] == list(range(ROUNDS + 1))
    assert killed[1] == calm[1]
    assert killed[2] == calm[2]
    assert not list((tmp_path / "killed").rglob("*.refused"))
    assert (tmp_path / "killed" / "exchange" / DONE).read_text() == COMPLETE
    summary = json.loads((tmp_path / "killed" / "run" / "summary.json").read_text())
    assert summary["complete"]
    assert summary["rounds"] == ROUNDS
