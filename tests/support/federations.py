"""Small federations of devices for tests: a bundle, the data of each client, and agents in threads."""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from edgefd_client.agent import run_agent
from edgefd_client.folder_link import join
from edgefd_client.link import Link
from edgefd_client.sources import NpzSource, client_data, read_samples
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.coordinator.served_run import ServedRun, read_served_run
from edgefd_server.folder_link.front_end import open_folder

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationInfo
from edgefd.rounds.loop import Transport, run_rounds
from edgefd.rounds.validation import ExpectedTask, expected_task
from edgefd.runs.execute import make_server
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import PreparedRun, prepare
from edgefd.runs.terms import terms_of
from edgefd.simulation.client_files import export_client_data
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.exchange_folder import COMPLETE


@dataclass(frozen=True, eq=False)
class ExportedFederation:
    """A federation whose bundle and client data are exported."""

    prepared: PreparedRun
    bundle: Path
    data: tuple[Path, ...]

    def read(self) -> Bundle:
        """Read the bundle."""
        return read_bundle(self.bundle)

    def client(self, i: int) -> ClientData:
        """Read the data of a client."""
        bundle = self.read()
        return client_data(read_samples(NpzSource(self.data[i]), bundle), bundle, i)

    def served(self) -> ServedRun:
        """Return the federation as its coordinator knows it."""
        return read_served_run(self.prepared.config, [self.bundle])

    @property
    def expected(self) -> ExpectedTask:
        """What a device of the federation expects of a task."""
        config, federation = self.prepared.config, self.prepared.federation
        return expected_task(config.method, terms_of(config, federation), len(federation.proxy), len(self.data))

    @contextmanager
    def open(self, exchange: Path, timeout: float = 60.0) -> Iterator[RoundCoordinator]:
        """Open an exchange folder for this federation while the context lasts."""
        terms = terms_of(self.prepared.config, self.prepared.federation)
        coordinator = RoundCoordinator(FederationInfo("test", len(self.data), terms), timeout, ignore_event)
        with open_folder(exchange, coordinator, len(self.prepared.federation.proxy)):
            yield coordinator


def small(
    n_clients: int = 3, rounds: int = 2, method: str = "edgefd", sections: dict[str, Any] | None = None, **train: Any
) -> Config:
    """Build a config that trains in seconds: 600 images, a small MLP, ONNX learners."""
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": n_clients},
            "model": {"name": "mlp"},
            "method": {"name": method, **({"n_clusters": 4} if method == "edgefd" else {})},
            "train": {"rounds": rounds, "local_steps": 2, "augment_shift": 1, **train},
            "codec": {"name": "float16"},
            "run": {"learner": "onnx", "workers": 0},
            **(sections or {}),
        }
    )


def export_federation(config: Config, folder: Path) -> ExportedFederation:
    """Export the bundle and the client data of a config into a folder."""
    prepared = prepare(config)
    export_config(config, None, folder / "bundle")
    return ExportedFederation(prepared, folder / "bundle", tuple(export_client_data(prepared, folder / "data")))


class Announced(Transport, Protocol):
    """A transport that informs its devices about the end of the run."""

    def finish(self, outcome: str) -> None: ...


def round_plan(d: ExportedFederation, round: int = 0, **changes: Any) -> RoundPlan:
    """Build the plan of a round, with some fields changed."""
    ids = np.arange(len(d.prepared.federation.proxy))
    plan = RoundPlan(round, ids, closing=round >= d.prepared.config.train.rounds)
    return dataclasses.replace(plan, **changes)


def coordinate(d: ExportedFederation, transport: Announced) -> list[Knowledge]:
    """Run all rounds of the coordinator and return the teacher after each round."""
    server = make_server(d.prepared.config, d.prepared.federation)
    teachers = [r.teacher for r in run_rounds(server, transport)]
    transport.finish(COMPLETE)
    return [teacher for teacher in teachers if teacher is not None]


def ignore_event(event: str, **fields: Any) -> None:
    """Drop an event: a log for tests that need none."""


def ignore_line(line: str) -> None:
    """Ignore a log line."""


def unwrapped(link: Link, client: int) -> Link:
    """Return the link itself."""
    return link


@contextmanager
def in_threads(agent: Callable[[int], None], clients: Iterable[int]) -> Iterator[None]:
    """Run an agent in a thread for each client. Raise the failures of agents, even if the coordinator then gave up."""
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
    d: ExportedFederation, folder: Path, clients: Iterable[int], wrap: Callable[[Link, int], Link] = unwrapped
) -> AbstractContextManager[None]:
    """Run the agents of these clients in threads, with the exchange folder and the state folders in `folder`."""

    def one(i: int) -> None:
        link = wrap(join(folder / "exchange", i, d.read().manifest.terms), i)
        run_agent(link, d.read(), d.client(i), folder / f"state{i}", ignore_line)

    return in_threads(one, clients)


def undisturbed(d: ExportedFederation, folder: Path, wrap: Callable[[Link, int], Link] = unwrapped) -> list[Knowledge]:
    """Run a federation with an agent in a thread for each client, without faults, and return its teachers."""
    with d.open(folder / "exchange") as transport, agents(d, folder, range(len(d.data)), wrap):
        return coordinate(d, transport)


def same(a: Sequence[Knowledge], b: Sequence[Knowledge]) -> bool:
    """Return whether two lists of teachers are equal, bit by bit."""
    return len(a) == len(b) and all(x.equals(y) for x, y in zip(a, b, strict=True))
