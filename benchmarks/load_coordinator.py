"""The coordinator of `benchmarks.load` in its own process, with the real link, coordinator, log and aggregation.

It prints a JSON line with its port, one after each round with the resources of the process, and one at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.coordinator.served_run import BundleFiles
from edgefd_server.grpc_link.device_service import open_link
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.monitoring.event_log import json_log, tee_log
from edgefd_server.monitoring.prometheus import LinkMetrics, metrics_log

from benchmarks.load_devices import terms_for
from benchmarks.processes import memory
from edgefd.core.descriptors import raise_file_limit
from edgefd.federation.clients import ProxySet
from edgefd.federation.progress import Progress
from edgefd.federation.terms import FederationInfo
from edgefd.methods import config_of, get_method
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.server import Server, make_plan
from edgefd.wire.exchange_folder import COMPLETE

TIMEOUT = 900.0


def resources() -> dict[str, float]:
    """Return the processor time of this process (s), its current and peak memory (MB), and its open descriptors."""
    return {
        "processor": time.process_time(),
        "memory": memory(field="VmRSS"),
        "peak": memory(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def coordinate(devices: int, rounds: int, rows: int, classes: int, certs: Path, log: Path) -> None:
    """Coordinate a whole run, and print a line for each round."""
    method = get_method("edgefd")
    terms = terms_for(classes, rounds)
    proxy = ProxySet(np.zeros((rows, 1), np.float32), np.full(rows, -1))
    server = Server(method, config_of(method, {}), terms, devices, proxy)
    first, _ = make_plan(server, Progress())
    # No bundle is downloaded: the devices of a load run report that they have it.
    bundle = BundleFiles(Path("no-bundle"), "0" * 64, {})
    metrics = LinkMetrics()
    raise_file_limit()
    with ExitStack() as stack:
        events = tee_log(stack.enter_context(json_log(log)), metrics_log(metrics))
        coordinator = RoundCoordinator(FederationInfo("load", devices, terms), TIMEOUT, events)
        sessions = DeviceSessions(coordinator, [bundle], coordinator.expected(first).largest)
        front_end = stack.enter_context(open_link(sessions, ListenAddress("127.0.0.1:0", certs), metrics))
        print(json.dumps({"port": front_end.port}), flush=True)
        began = time.perf_counter()
        for result in run_rounds(server, coordinator):
            seconds = time.perf_counter() - began
            exchange = result.exchange
            line = {"round": result.plan.round, "seconds": seconds, "reports": len(exchange.reports)}
            line |= {"up": exchange.bytes_up, "down": exchange.bytes_down}
            print(json.dumps(line | resources()), flush=True)
            began = time.perf_counter()
        coordinator.finish(COMPLETE)
    accepted = metrics.registry.get_sample_value("edgefd_reports_accepted_total")
    print(json.dumps({"accepted": accepted}), flush=True)


def main() -> None:
    """Run the coordinator that `benchmarks.load` requests."""
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("devices", "rounds", "rows", "classes"):
        options.add_argument(f"--{name}", type=int, required=True)
    for name in ("certs", "log"):
        options.add_argument(f"--{name}", type=Path, required=True)
    chosen = options.parse_args()
    coordinate(**vars(chosen))


if __name__ == "__main__":
    main()
