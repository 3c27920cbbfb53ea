"""Kill -9 of a server with an exchange folder at any moment: the resumed run has the results of an undisturbed one."""

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

from edgefd.runs.checkpoint import load_checkpoint
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE, DONE
from tests.support.federations import ExportedFederation, export_federation, small
from tests.support.fork_server import ForkServer, environment, fork_server, fresh

CLIENTS, ROUNDS = 3, 60
FRESH, TIMED, POINTS = 2, 6, 20
"""kills of new interpreters and of forks at random times, and kills at this number of points in the order of writes"""
IMPORTS = """
import edgefd_server.serve.folder
from edgefd.cli.main import main
"""
ENV = environment("proto", "server", "client")


@pytest.fixture
def federation(tmp_path: Path) -> tuple[ExportedFederation, Path]:
    config = small(CLIENTS, ROUNDS, local_steps=40, sections={"coordinator": {"fraction": 0.67}})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    return export_federation(config, tmp_path / "federation"), path


def devices(data: ExportedFederation, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the clients, each as a process that survives all kills of the server."""
    for client in range(CLIENTS):
        options = [
            "--bundle",
            str(data.bundle),
            "--data",
            str(data.data[client]),
            "--state",
            str(folder / f"s{client}"),
        ]
        command = [sys.executable, "-m", "edgefd_client", "run", *options, "--exchange", str(folder / "exchange")]
        with (folder / f"client{client}.log").open("wb") as log:
            yield subprocess.Popen([*command, "--client", str(client)], env=ENV, stdout=log, stderr=subprocess.STDOUT)


def run(data: ExportedFederation, config: Path, folder: Path, kill: bool) -> list[str]:
    """Run the federation, with or without kills, and return the phase of the run at each kill."""
    folder.mkdir()
    exchange, log = folder / "exchange", folder / "servers.log"
    server = ["serve", "folder", str(config), str(exchange), "--timeout", "60", "--out", str(folder / "run")]
    server += ["--resume", "--bundle", str(data.bundle)]
    phases: list[str] = []
    seen: dict[Path, str] = {}
    with log.open("wb") as errors, fork_server(IMPORTS, ENV, errors) as servers:
        clients = list(devices(data, folder))
        try:
            for code in kills(server, servers, errors) if kill else ():
                assert code == -signal.SIGKILL, f"{code}: {log.read_text()}"
                phases.append(phase(data, folder / "run", exchange))
                check_unchanged(exchange, seen)
            servers.start(server)
            assert servers.ended() == 0, log.read_text()
            for client, process in enumerate(clients):
                assert process.wait(30) == 0, (folder / f"client{client}.log").read_text()
            check_unchanged(exchange, seen)
        finally:
            for process in clients:
                if process.poll() is None:
                    process.kill()
                    process.wait(10)
    return phases


def kills(server: list[str], servers: ForkServer, errors: IO[bytes]) -> Iterator[int]:
    """Start and kill servers, and return the exit code of each."""
    rng = random.Random(5)
    for _ in range(FRESH):
        yield fresh(["edgefd", *server], rng.uniform(0.5, 1.5), ENV, errors)
    for point in range(POINTS):
        servers.start(server, point)
        yield servers.ended()
    for _ in range(TIMED):
        yield servers.killed(server, rng.uniform(0.05, 0.2))


def phase(data: ExportedFederation, run: Path, exchange: Path) -> str:
    """Return the phase in which a killed server left the exchange."""
    saved = load_checkpoint(run, data.served().expected_teacher)
    if saved is None:
        return "before the first checkpoint"
    folder = exchange / "rounds" / f"{saved.next_round:04d}"
    for name, meaning in (("counted.json", "collected"), ("plan.bin", "open"), ("teacher.bin", "teacher out")):
        if (folder / name).exists():
            return meaning
    return "between rounds"


def check_unchanged(exchange: Path, seen: dict[Path, str]) -> None:
    """Check that no file that devices read or wrote has changed since it was first seen."""
    for name in ("teacher.bin", "plan.bin", "reports/[0-9]*.bin"):
        for path in exchange.glob(f"rounds/*/{name}"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert seen.setdefault(path, digest) == digest, path


def result(data: ExportedFederation, folder: Path) -> tuple[bytes, list[dict[str, object]], dict[str, bytes]]:
    """Return the last teacher, the metrics and the exchanged files of a run."""
    saved = load_checkpoint(folder / "run", data.served().expected_teacher)
    assert saved is not None
    assert saved.progress.teacher is not None
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    files = {
        str(p.relative_to(folder)): p.read_bytes()
        for name in ("teacher.bin", "reports/*.bin")
        for p in folder.glob(f"exchange/rounds/*/{name}")
    }
    return wire.encode(saved.progress.teacher, "float32"), lines, files


@pytest.mark.slow
def test_kill_9_of_the_folder_server_at_any_point_changes_no_result(
    federation: tuple[ExportedFederation, Path], tmp_path: Path
) -> None:
    data, config = federation
    run(data, config, tmp_path / "undisturbed", kill=False)
    phases = run(data, config, tmp_path / "killed", kill=True)
    counts = {p: phases.count(p) for p in sorted(set(phases))}
    print(f"{len(phases)} kills: {counts}")
    assert set(counts) >= {"between rounds", "teacher out", "open", "collected"}
    killed, undisturbed = (result(data, tmp_path / name) for name in ("killed", "undisturbed"))
    assert killed[0] == undisturbed[0]
    assert [line["round"] for line in killed[1]] == list(range(ROUNDS + 1))
    assert killed[1] == undisturbed[1]
    assert killed[2] == undisturbed[2]
    assert not list((tmp_path / "killed").rglob("*.refused"))
    assert (tmp_path / "killed" / "exchange" / DONE).read_text() == COMPLETE
    summary = json.loads((tmp_path / "killed" / "run" / "summary.json").read_text())
    assert summary["complete"]
    assert summary["rounds"] == ROUNDS
