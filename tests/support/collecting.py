"""For tests: a coordinator that collects on a free port, and devices that contribute."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgefd_client.contribute import ContributeOptions, contribute
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.monitoring.prometheus import LinkMetrics, make_metrics
from edgefd_server.proxy_collection.service import CollectLink, Collector, open_collector
from edgefd_server.proxy_collection.store import Collection, Wanted

from edgefd.wire.device_link import PROTOCOL
from tests.support.device_links import FREE
from tests.support.federations import quiet

SHAPE = (1, 4, 4)
WANTED = Wanted(n_clients=2, seed=3, dtype="float32", shape=SHAPE, low=-10.0, high=10.0)


@dataclass(eq=False)
class Open:
    grpc_server: CollectLink
    collection: Collection
    metrics: LinkMetrics
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_server.port}"

    def refused(self, call: str, reason: str) -> float:
        return self.metrics.registry.get_sample_value("edgefd_refused_total", {"call": call, "reason": reason}) or 0.0


@contextmanager
def collecting(
    folder: Path,
    certs: Path | None = None,
    wanted: Wanted = WANTED,
    most: int = 1000,
    rate: Rate = FREE,
    port: int = 0,
) -> Iterator[Open]:
    metrics, lines = make_metrics(), list[dict[str, Any]]()

    def log(event: str, **fields: Any) -> None:
        lines.append({"event": event, **fields})

    collection = Collection(folder, wanted, most, log)
    with open_collector(Collector(collection, rate), ListenAddress(f"127.0.0.1:{port}", certs), metrics) as grpc_server:
        yield Open(grpc_server, collection, metrics, lines)


def private(folder: Path, client: int, n: int = 40, **changes: Any) -> Path:
    """Private data of a device: two classes, every sample another."""
    x = np.random.default_rng(client).uniform(-5, 5, (n, *SHAPE)).astype(np.float32)
    path = folder / f"private{client}.npz"
    np.savez(path, **({"x": x, "y": np.arange(n) % 2} | changes))
    return path


def gives(
    address: str,
    data: Path,
    state: Path,
    certs: Path | None = None,
    client: int | None = None,
    say: Any = quiet,
    **settings: Any,
) -> None:
    """`edgefd-client contribute`."""
    usual = {"insecure": False, "fraction": 0.25, "seed": 0, "keep": False, "yes": True, "give_up": 30}
    contribute(ContributeOptions(address, certs, client=client, data=data, state=state, **(usual | settings)), say)


def offer(x: np.ndarray, client: int | None = 0, **changes: Any) -> pb.ContributeRequest:
    """All of x in one request."""
    fields = {"protocol": PROTOCOL, "client": client, "rows": len(x), "dtype": str(x.dtype), "shape": x.shape[1:]}
    fields |= {"sha256": hashlib.sha256(x.tobytes()).digest(), "samples": x.tobytes()}
    return pb.ContributeRequest(**(fields | changes))
