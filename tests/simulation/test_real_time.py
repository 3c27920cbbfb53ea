"""Devices that take known times, over gRPC, against the virtual clock of a simulation with the same times."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from edgefd_client.link import Link, Membership, Task
from edgefd_server.coordinator.round_coordinator import RoundCoordinator

from edgefd.core.yaml_files import dump_yaml
from edgefd.federation.devices import Devices, fleet_of
from edgefd.learners.batches import Batch
from edgefd.learners.learner import Proximal
from edgefd.learners.onnx_learner import OnnxLearner
from edgefd.rounds.loop import RoundResult, run_rounds
from edgefd.rounds.validation import ExpectedTask
from edgefd.runs.execute import make_server
from edgefd.simulation.engine import open_transport
from edgefd.wire.exchange_folder import COMPLETE
from tests.support.device_links import open_device_link, run_devices
from tests.support.federations import ExportedFederation, export_federation, small

STEP_SECONDS = {"quick": 0.6, "medium": 1.3, "slow": 2.7}
LATENCY = 0.25


@dataclass(eq=False)
class DelayedLink:
    """A link whose messages take `LATENCY`, and which tells when the device waits for its first task."""

    link: Link
    waiting: threading.Semaphore
    asked: bool = False

    @property
    def membership(self) -> Membership:
        return self.link.membership

    def next_task(self, after: int, expected: ExpectedTask) -> Task | None:
        if not self.asked:
            self.asked = True
            self.waiting.release()
        task = self.link.next_task(after, expected)
        time.sleep(LATENCY)
        return task

    def submit(self, report: bytes, round: int) -> None:
        time.sleep(LATENCY)
        self.link.submit(report, round)


def outcome(result: RoundResult) -> list[tuple[int, int]]:
    return sorted((r.client, r.round) for r in result.exchange.reports)


def of_devices(
    federation: ExportedFederation, devices: Devices, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[float, list[tuple[int, int]]]]:
    """Run the federation over gRPC; return the duration of each round and the reports that counted."""
    config, n = federation.prepared.config, len(federation.data)
    steps = [next(iter(p.step_seconds.values())) for p in fleet_of(devices, config.seed, n)]
    own, train, waiting = threading.local(), OnnxLearner.train, threading.Semaphore(0)

    def slowly(self: OnnxLearner, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        listed = list(batches)
        until = time.monotonic() + len(listed) * own.step_seconds
        loss = train(self, listed, lr, proximal)
        time.sleep(max(0.0, until - time.monotonic()))
        return loss

    def wrap(link: Link, client: int) -> Link:
        own.step_seconds = steps[client]
        return DelayedLink(link, waiting)

    monkeypatch.setattr(OnnxLearner, "train", slowly)
    with open_device_link(federation, timeout=120.0, rules=config.coordinator) as server:
        addresses = [f"127.0.0.1:{server.grpc_server.port}"] * n
        with run_devices(federation, folder, addresses, None, wrap):
            for _ in range(n):
                assert waiting.acquire(timeout=60)
            time.sleep(1)  # the first call reaches the server
            return _timed(federation, server.coordinator)


def _timed(federation: ExportedFederation, coordinator: RoundCoordinator) -> list[tuple[float, list[tuple[int, int]]]]:
    found, start = [], time.monotonic()
    for result in run_rounds(make_server(federation.prepared.config, federation.prepared.federation), coordinator):
        found.append((time.monotonic() - start, outcome(result)))
        start = time.monotonic()
    coordinator.finish(COMPLETE)
    return found


def on_the_virtual_clock(federation: ExportedFederation, devices: Devices) -> list[tuple[float, list[tuple[int, int]]]]:
    config, clients = replace(federation.prepared.config, devices=devices), federation.prepared.federation
    transport = open_transport(config, clients)
    transport.start()
    results = list(run_rounds(make_server(config, clients), transport))
    return [(r.exchange.virtual_seconds or 0.0, outcome(r)) for r in results]


@pytest.mark.slow
@pytest.mark.parametrize("rules", [{}, {"min_reports": 2, "stale_reports": "buffer"}], ids=["synchronous", "buffered"])
def test_a_real_federation_takes_the_time_of_the_virtual_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, Any]
) -> None:
    """The same reports count in each round, and rounds together take the same time within 10 %.

    Training takes its known time, everything else milliseconds, and two devices never report within a second. The
    closing round of a quorum is left out: only a simulation waits for all devices in it.
    """
    link = {"latency_seconds": LATENCY, "down_mbit": 1e9, "up_mbit": 1e9}
    profiles = {
        name: {"step_seconds": {"mlp": step}, "predict_seconds": {"mlp": 1e-9}, **link}
        for name, step in STEP_SECONDS.items()
    }
    (tmp_path / "boards.yaml").write_text(dump_yaml(profiles))
    devices = Devices(dict.fromkeys(STEP_SECONDS, 1.0), (str(tmp_path / "boards.yaml"),))
    federation = export_federation(
        small(3, rounds=6 if rules else 2, sections={"coordinator": rules}, catch_up=1), tmp_path / "federation"
    )
    virtual = on_the_virtual_clock(federation, devices)
    real = of_devices(federation, devices, tmp_path, monkeypatch)
    n = 6 if rules else 3
    assert [reports for _, reports in real[:n]] == [reports for _, reports in virtual[:n]]
    expected, found = (sum(seconds for seconds, _ in each[:n]) for each in (virtual, real))
    assert expected > 15
    assert found == pytest.approx(expected, rel=0.1)
