"""A coordinator that collects samples on a free port, and devices that contribute."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgefd_client.contribute import ContributeOptions, contribute
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.monitoring.event_log import tee_log
from edgefd_server.monitoring.prometheus import LinkMetrics, metrics_log
from edgefd_server.proxy_collection.service import CollectLink, Collector, open_collector
from edgefd_server.proxy_collection.store import Collection, Wanted

from edgefd.wire.device_link import PROTOCOL
from tests.support.device_links import UNLIMITED
from tests.support.federations import ignore_line
from tests.support.open_server import OpenServer

SHAPE = (1, 4, 4)
WANTED = Wanted(n_clients=2, seed=3, dtype="float32", shape=SHAPE, low=-10.0, high=10.0)


@dataclass(eq=False)
class OpenCollector(OpenServer):
    """An open collector and the parts behind it."""

    grpc_server: CollectLink
    collection: Collection
    metrics: LinkMetrics
    lines: list[dict[str, Any]] = field(default_factory=list)
    """events of the log"""


@contextmanager
def collecting(
    folder: Path,
    certs: Path | None = None,
    wanted: Wanted = WANTED,
    most: int = 1000,
    rate: Rate = UNLIMITED,
    port: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[OpenCollector]:
    """Collect samples on a port of this machine while the context lasts; port 0 is any free one."""
    metrics, lines = LinkMetrics(), list[dict[str, Any]]()

    def log(event: str, **fields: Any) -> None:
        lines.append({"event": event, **fields})

    collection = Collection(folder, wanted, most, tee_log(log, metrics_log(metrics)))
    with open_collector(
        Collector(collection, rate, clock), ListenAddress(f"127.0.0.1:{port}", certs), metrics
    ) as grpc_server:
        yield OpenCollector(grpc_server, collection, metrics, lines)


def private_data(folder: Path, client: int, n: int = 40, **changes: Any) -> Path:
    """Write private data of a device: two classes, all samples different."""
    x = np.random.default_rng(client).uniform(-5, 5, (n, *SHAPE)).astype(np.float32)
    path = folder / f"private{client}.npz"
    np.savez(path, **({"x": x, "y": np.arange(n) % 2} | changes))
    return path


def contribute_samples(
    address: str,
    data: Path,
    state: Path,
    certs: Path | None = None,
    client: int | None = None,
    say: Any = ignore_line,
    **settings: Any,
) -> None:
    """Run `edgefd-client contribute`."""
    defaults = {"insecure": False, "fraction": 0.25, "seed": 0, "keep": False, "yes": True, "give_up": 30}
    options = {"server": address, "certs": certs, "client": client, "data": data, "state": state}
    contribute(ContributeOptions(**(options | defaults | settings)), say)


def contribute_request(x: np.ndarray, client: int | None = 0, **changes: Any) -> pb.ContributeRequest:
    """Return one request that contributes all of x."""
    fields = {"protocol": PROTOCOL, "client": client, "rows": len(x), "dtype": str(x.dtype), "shape": x.shape[1:]}
    fields |= {"sha256": hashlib.sha256(x.tobytes()).digest(), "samples": x.tobytes()}
    return pb.ContributeRequest(**(fields | changes))
