"""The status page in a real browser, during a real run and after a lost connection."""

import json
import os
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from edgefd_server import certs
from edgefd_server.monitoring.fleet import CoordinatorFleet
from edgefd_server.monitoring.status import FleetSnapshot, RunDescription, StatusBoard
from edgefd_server.monitoring.status_server import StatusServer

from edgefd.config.load import parse_config
from simulations.federation import process
from tests.support.browser import Browser
from tests.support.federations import export_federation, small
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
CLIENTS, ROUNDS = 3, 5
EDGEFD, DEVICE = [sys.executable, "-m", "edgefd"], [sys.executable, "-m", "edgefd_client"]
RECORD_STATES = """
const states = window.states = new Set(), table = document.querySelector('#devices');
const record = () => table.querySelectorAll('td:nth-child(3)').forEach((cell) => states.add(cell.textContent));
new MutationObserver(record).observe(table, {subtree: true, childList: true, characterData: true});
record();
"""


def wait_for_line(log: Path, pattern: str) -> str:
    """Wait until a line of the log matches the pattern, and return the pattern's first group."""
    match = until(lambda: re.search(pattern, log.read_text()))
    assert match is not None
    return match[1]


@pytest.mark.slow
def test_the_page_shows_a_run_from_its_beginning_to_its_end(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / part) for part in ("", "proto", "server", "client")))
    config = small(CLIENTS, ROUNDS)
    federation = export_federation(config, tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    np.savez(tmp_path / "labels.npz", y=federation.prepared.federation.proxy_labels)
    certs.init(tmp_path / "certs", ["127.0.0.1"], 30)
    keys = [certs.add_device(tmp_path / "certs", f"camera-{i}", i, 30) for i in range(CLIENTS)]
    log = tmp_path / "server.log"
    serve = [
        *EDGEFD,
        "serve",
        "grpc",
        str(tmp_path / "config.yaml"),
        "--listen",
        "127.0.0.1:0",
        "--status",
        "127.0.0.1:0",
        "--proxy-labels",
        str(tmp_path / "labels.npz"),
    ]
    serve += ["--certs", str(tmp_path / "certs"), "--bundle", str(federation.bundle), "--out", str(tmp_path / "my-run")]
    with ExitStack() as started:
        server = started.enter_context(process(serve, log))
        url, port = wait_for_line(log, r"status page: (\S+)"), wait_for_line(log, r"clients on port (\d+)")
        chromium.open(url)
        until(lambda: chromium.text("#link") == "live")
        until(lambda: "my-run" in chromium.text("h1"))
        chromium.run(RECORD_STATES)
        table = chromium.text("#devices")
        assert [table.count(f"camera-{i}") for i in range(CLIENTS)] == [1, 1, 1]
        assert table.count("never seen") == CLIENTS
        for i, key in enumerate(keys):
            join = [*DEVICE, "run", "--server", f"127.0.0.1:{port}", "--certs", str(key)]
            join += ["--data", str(federation.data[i]), "--state", str(tmp_path / f"state-{i}")]
            started.enter_context(process(join, tmp_path / f"device-{i}.log"))
        until(lambda: chromium.text("#stage") == "✓ The run is complete", 120)
        assert server.wait(60) == 0, log.read_text()
    time.sleep(2)  # the coordinator has stopped; the page must keep its content
    assert chromium.text("#link") == "ended"
    assert chromium.text("#rounds-text") == f"{ROUNDS} of {ROUNDS}, and the closing round"
    assert chromium.text("#why") == ""
    states = " ".join(chromium.run("return [...window.states]"))
    assert "never seen" in states
    assert "answered the closing round" in states
    assert chromium.text("#devices").count("answered the closing round") == CLIENTS
    answered = "return [...document.querySelectorAll('#devices td:nth-child(5)')].map((cell) => cell.textContent)"
    assert chromium.run(answered) == [str(ROUNDS + 1)] * CLIENTS
    check_plots(chromium, json.loads((tmp_path / "my-run" / "summary.json").read_text()))
    assert chromium.complaints() == []


def check_plots(page: Browser, summary: dict[str, Any]) -> None:
    """Check that each curve has a point for every round, stays inside its plot, and has its last value in the label."""
    last_values = {
        "accuracy": f"held-out, mean {100 * summary['heldout_accuracy_mean']:.1f} %",
        "kept": f"mean over clients {100 * summary['kept_fraction']:.1f} %",
        "bytes": f"down {summary['bytes_down'] / 1000:.1f} kB",
    }
    for plot, curves, points in (("accuracy", 2, ROUNDS), ("kept", 1, ROUNDS), ("bytes", 2, ROUNDS + 1)):
        paths = page.run(
            "return [...document.querySelectorAll(arguments[0])].map((p) => p.getAttribute('d'))",
            f"#{plot} > svg .curve",
        )
        assert len(paths) == curves, plot
        width, height = page.run(
            "const b = document.querySelector(arguments[0]).viewBox.baseVal; return [b.width, b.height]",
            f"#{plot} > svg",
        )
        for path in paths:
            coordinates = [float(n) for n in re.findall(r"-?\d+\.?\d*", path)]
            assert len(coordinates) >= 2 * points, plot
            assert all(0 <= n <= width for n in coordinates[::2])
            assert all(0 <= n <= height for n in coordinates[1::2])
        label = page.run("return document.querySelector(arguments[0]).getAttribute('aria-label')", f"#{plot} > svg")
        assert last_values[plot] in label


@pytest.mark.slow
def test_the_page_reconnects_and_shows_hostile_names_as_text(chromium: Browser) -> None:
    hostile_name = "<img src=x onerror='window.evil = 1'>"
    config = parse_config({"partition": {"name": "weak", "n_clients": 2}, "train": {"rounds": 5}})
    fleet = CoordinatorFleet(config, 2, dict, lambda: {0: hostile_name})
    fleet.note(
        "refused",
        call="Join",
        reason="certificate",
        line=f"device {hostile_name} is unknown",
        device=hostile_name,
        peer="",
    )
    board = StatusBoard(RunDescription("edgefd", "digits", "mlp", 2, 5), fleet.snapshot)
    board.begin(hostile_name)
    first = StatusServer(board, None)
    first.start("127.0.0.1", 0)
    chromium.look(360)
    try:
        chromium.open(f"http://127.0.0.1:{first.port}/")
        until(lambda: chromium.text("#link") == "live")
        assert hostile_name in chromium.text("#devices")
        assert hostile_name in chromium.text("#refusals")
        assert chromium.run("return [window.evil ?? null, document.querySelectorAll('img').length]") == [None, 0]
        assert chromium.run("return document.documentElement.scrollWidth") <= 360
        assert chromium.complaints() == []
    finally:
        first.stop()
    until(lambda: chromium.text("#link").startswith("connection lost"))
    second = StatusServer(
        StatusBoard(RunDescription("edgefd", "digits", "mlp", 2, 5), lambda: FleetSnapshot(None, (), ())), None
    )
    second.start("127.0.0.1", first.port)
    try:
        until(lambda: chromium.text("#link") == "live")
        assert chromium.text("#run") == ""
    finally:
        second.stop()
    # The only messages are those of requests while no server was running.
    assert all("Failed to load resource" in line for line in chromium.complaints())
