"""Collect a proxy set from devices, before the bundle and the run exist.

The process may be killed at any moment and started again.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.addresses import check_port
from edgefd.core.descriptors import raise_file_limit
from edgefd.core.errors import InUse, Stopped, UserError
from edgefd.core.files import removed_on_error
from edgefd.data.build_federation import CONTRIBUTORS
from edgefd.data.npz import read_npz
from edgefd.runs.checkpoint import LOCK, exclusive_lock
from edgefd.runs.deployable import check_deployable
from edgefd_server.grpc_link.server import ListenAddress, warn_if_plaintext
from edgefd_server.monitoring.event_log import LOG, json_log, tee_log
from edgefd_server.monitoring.prometheus import LinkMetrics, metrics_log, metrics_server
from edgefd_server.proxy_collection.service import Collector, open_collector
from edgefd_server.proxy_collection.store import CLIENTS, COLLECTION, PROXY, Collection, Wanted, open_folder


@dataclass(frozen=True)
class Collecting:
    """Options for collecting samples, in addition to the config."""

    listen: ListenAddress
    """address that devices call"""
    most: int = 10_000
    """samples that one client may contribute"""
    deadline: float = math.inf
    """seconds after which `least` clients are enough"""
    least: int | None = None
    """clients that must have contributed by the deadline; None = all"""
    metrics_port: int | None = None
    """port on this machine that serves Prometheus metrics; None = no metrics"""

    def __post_init__(self) -> None:
        check_port(self.metrics_port, "--metrics")


@dataclass(frozen=True)
class Collected:
    """A collected proxy set."""

    path: Path
    """proxy.npz"""
    samples: int
    """number of samples in it"""
    clients: int
    """number of clients that contributed"""


def wanted_of(
    config: Config, n_clients: int | None, shape: str, dtype: str, low: float | None = None, high: float | None = None
) -> Wanted:
    """Return the requirements on contributed samples.

    Args:
        config: of the run.
        n_clients: number of clients; None = the partition of the config says it.
        shape: sizes of the axes of a raw sample, such as 1,28,28.
        dtype: uint8 or float32.
        low: smallest accepted value; None = 0 for uint8.
        high: largest accepted value; None = 255 for uint8.

    Raises:
        UserError: if devices cannot contribute the config's proxy set, or something is missing or malformed.
    """
    check_deployable(config)
    if not config.method.message.of_proxy_rows:
        raise UserError(f"method {config.method_name} has no proxy set: there is nothing to collect")
    if config.data.extractor is not None:
        raise UserError("data.extractor: devices contribute raw samples, but a proxy file holds features: remove it")
    configured: int | None = getattr(config.partition, "n_clients", None)
    n = configured if n_clients is None else n_clients
    if n is None or n < 1:
        raise UserError(f"partition {config.partition.name} does not say how many clients there are: give --clients N")
    if configured not in (None, n):
        raise UserError(f"--clients is {n}, but partition.n_clients is {configured}: leave --clients out")
    return Wanted(n, config.seed, dtype, _axes(shape), *_range(dtype, low, high))


def _axes(text: str) -> tuple[int, ...]:
    axes = text.split(",")
    if not all(axis.isdecimal() and int(axis) > 0 for axis in axes):
        raise UserError(f"--shape must be sizes such as 1,28,28, not {text!r}")
    return tuple(int(axis) for axis in axes)


def _range(dtype: str, low: float | None, high: float | None) -> tuple[float, float]:
    defaults = {"uint8": (0.0, 255.0), "float32": (None, None)}
    if dtype not in defaults:
        raise UserError(f"--dtype must be uint8 or float32, not {dtype!r}")
    least, most = defaults[dtype]
    low, high = least if low is None else low, most if high is None else high
    if low is None or high is None:
        raise UserError("--dtype float32 needs --low and --high, the smallest and the largest value of a sample")
    if not -math.inf < low < high < math.inf:
        raise UserError(f"--low must be below --high, not {low:g} and {high:g}")
    return low, high


def collect(wanted: Wanted, options: Collecting, folder: Path) -> Collected:
    """Collect contributions of the clients in a folder, and make its proxy.npz from them.

    Contributions that are already in the folder count. If the folder already has its proxy.npz, nothing is collected.

    Raises:
        UserError: if the folder belongs to another collection, or the port cannot be opened.
        RunError: if too few clients have contributed in time, or something cannot be written.
        Stopped: on Ctrl-C.
    """
    least = wanted.n_clients if options.least is None else options.least
    if not 1 <= least <= wanted.n_clients:
        raise UserError(f"--least must be from 1 to {wanted.n_clients}, the number of clients, not {least}")
    parts = (folder / name for name in (COLLECTION, CLIENTS, LOCK, LOG))
    in_use = False

    def kept() -> bool:  # by another collector, or because devices have sent something, if only refused samples
        return in_use or any((folder / CLIENTS).glob("*")) or (folder / LOG).exists()

    with removed_on_error(folder, *parts, unless=kept), ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(folder))
        except InUse:
            in_use = True
            raise
        open_folder(folder, wanted)
        if not (folder / PROXY).exists():
            _receive(folder, wanted, options, least)
        arrays = read_npz(folder / PROXY, ("x", CONTRIBUTORS))
        return Collected(folder / PROXY, len(arrays["x"]), int(arrays[CONTRIBUTORS]))


def _receive(folder: Path, wanted: Wanted, options: Collecting, least: int) -> None:
    """Wait for the contributions and write the proxy set."""
    metrics = LinkMetrics()
    raise_file_limit()
    with ExitStack() as front_ends:
        log = tee_log(front_ends.enter_context(json_log(folder / LOG)), metrics_log(metrics))
        collection = Collection(folder, wanted, options.most, log)
        front_ends.enter_context(metrics_server(metrics, options.metrics_port))
        grpc_server = front_ends.enter_context(open_collector(Collector(collection), options.listen, metrics))
        warn_if_plaintext(options.listen, "raw samples are sent in plaintext, and any sender can pose as a client")
        resumed = len(collection.contributors)
        suffix = f", {resumed} of them contributed already" if resumed else ""
        print(f"waiting for samples of {wanted.n_clients} clients on port {grpc_server.port}{suffix}", flush=True)
        try:
            collection.wait(least, options.deadline)
            collection.linger()
        except KeyboardInterrupt as error:
            n_done = len(collection.contributors)
            where = f"; their samples are in {folder}: run the same command to continue" if n_done else ""
            raise Stopped(f"{n_done} of {wanted.n_clients} clients have contributed{where}") from error
        collection.finish()
