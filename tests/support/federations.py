"""Small federations of devices for tests: a bundle, each client's data, and agents in threads."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgefd_client.agent import run_agent
from edgefd_client.folder_link import join
from edgefd_client.link import Link
from edgefd_client.sources import NpzSource, client_data
from edgefd_server.folder_link.transport import FolderTransport, open_folder

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData
from edgefd.federation.terms import FederationInfo
from edgefd.rounds.loop import Transport, run_rounds
from edgefd.runs.execute import plans_of, server_of
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import PreparedRun, prepare, terms_of
from edgefd.simulation.client_files import deal
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.exchange_folder import COMPLETE


@dataclass(frozen=True, eq=False)
class Dealt:
    """A config, exported and dealt out."""

    prepared: PreparedRun
    bundle: Path
    data: tuple[Path, ...]

    def read(self) -> Bundle:
        return read_bundle(self.bundle)

    def client(self, i: int) -> ClientData:
        return client_data(NpzSource(self.data[i]), self.read(), i)

    def open(self, exchange: Path, timeout: float = 60.0) -> FolderTransport:
        p = self.prepared
        terms = terms_of(p.config, p.federation)
        return open_folder(exchange, FederationInfo("test", len(self.data), terms), timeout)


def small(
    n_clients: int = 3, rounds: int = 2, method: str = "edgefd", sections: dict[str, Any] | None = None, **train: Any
) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": n_clients},
            "model": {"name": "mlp"},
            "method": {"name": method, **({"n_clusters": 4} if method == "edgefd" else {})},
            "train": {"rounds": rounds, "local_steps": 2, "augment_shift": 1, **train},
            "run": {"learner": "onnx", "workers": 0},
            **(sections or {}),
        }
    )


def dealt(config: Config, folder: Path) -> Dealt:
    prepared = prepare(config)
    export_config(config, None, folder / "bundle")
    return Dealt(prepared, folder / "bundle", tuple(deal(prepared, folder / "data")))


class Announced(Transport, Protocol):
    """A transport that tells its devices when it is over."""

    def finish(self, how: str) -> None: ...


def coordinate(d: Dealt, transport: Announced) -> list[Knowledge]:
    """The teacher after each round."""
    config = d.prepared.config
    todo = plans_of(config, d.prepared.federation)
    server = server_of(config, d.prepared.federation)
    found = [r.teacher for r in run_rounds(config.method, config.method_config, transport, todo, server=server)]
    transport.finish(COMPLETE)
    return [t for t in found if t is not None]


def quiet(line: str) -> None:
    """Say nothing."""


def as_it_is(link: Link, client: int) -> Link:
    return link


@contextmanager
def in_threads(agent: Callable[[int], None], clients: Iterable[int]) -> Iterator[None]:
    """An agent in a thread for each of the clients. What one died of is said, also where a coordinator then gave up."""
    failures: list[BaseException] = []

    def one(i: int) -> None:
        try:
            agent(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(timeout=30)
        assert not failures, failures


def agents(
    d: Dealt, folder: Path, clients: Iterable[int], wrap: Callable[[Link, int], Link] = as_it_is
) -> AbstractContextManager[None]:
    """Those clients' agents in threads, at the folder's `exchange`, with a state folder each beside it."""

    def one(i: int) -> None:
        link = wrap(join(folder / "exchange", i, d.read().manifest.terms), i)
        run_agent(link, d.read(), d.client(i), folder / f"state{i}", quiet)

    return in_threads(one, clients)


def undisturbed(d: Dealt, folder: Path, wrap: Callable[[Link, int], Link] = as_it_is) -> list[Knowledge]:
    """The teachers of a run with an agent in a thread for each client."""
    transport = d.open(folder / "exchange")
    with agents(d, folder, range(len(d.data)), wrap):
        return coordinate(d, transport)


def same(a: Sequence[Knowledge], b: Sequence[Knowledge]) -> bool:
    return len(a) == len(b) and all(x.equals(y) for x, y in zip(a, b, strict=True))
