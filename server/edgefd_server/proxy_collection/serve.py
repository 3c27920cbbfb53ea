"""Collect a proxy set from devices, before the bundle and the run exist.

The process may be killed at any moment and started again.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.errors import Stopped, UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.build_federation import CONTRIBUTORS
from edgefd.data.npz import read_npz
from edgefd.runs.load_data import load_raw, partition_function
from edgefd_server.coordinator.checkpoint import exclusive_lock
from edgefd_server.coordinator.resume import check_deployable
from edgefd_server.grpc_link.server import ListenAddress, warn_if_plaintext
from edgefd_server.monitoring.event_log import json_log
from edgefd_server.monitoring.prometheus import make_metrics, metrics_server
from edgefd_server.proxy_collection.service import Collector, open_collector
from edgefd_server.proxy_collection.store import PROXY, Collection, Wanted, open_folder


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


@dataclass(frozen=True)
class Collected:
    """A collected proxy set."""

    path: Path
    """proxy.npz"""
    samples: int
    """number of samples in it"""
    clients: int
    """number of clients that contributed"""


def collect(config: Config, options: Collecting, folder: Path) -> Collected:
    """Collect contributions of the config's clients in a folder, and make its proxy.npz from them.

    Contributions that are already in the folder count. If the folder already has its proxy.npz, nothing is collected.

    Raises:
        UserError: if the config has no such proxy set, the folder belongs to another config, or the port cannot be
            opened.
        RunError: if too few clients have contributed in time, or something cannot be written.
        Stopped: on Ctrl-C.
    """
    wanted = wanted_of(config)
    least = wanted.n_clients if options.least is None else options.least
    if not 1 <= least <= wanted.n_clients:
        raise UserError(f"--least must be from 1 to {wanted.n_clients}, the clients of the config, not {least}")
    with exclusive_lock(folder):
        open_folder(folder, wanted)
        if not (folder / PROXY).exists():
            _receive(folder, wanted, options, least)
        arrays = read_npz(folder / PROXY, ("x", CONTRIBUTORS))
        return Collected(folder / PROXY, len(arrays["x"]), int(arrays[CONTRIBUTORS]))


def wanted_of(config: Config) -> Wanted:
    """Return the requirements on contributed samples: the dtype, shape and approximate range of the config's data set.

    Values may lie beyond those of the training samples, on each side by at most the width of their range.

    Raises:
        UserError: if devices cannot contribute the config's proxy set.
    """
    check_deployable(config)
    if not config.method.message.of_proxy_rows:
        raise UserError(f"method {config.method_name} has no proxy set: there is nothing to collect")
    if config.data.extractor is not None:
        raise UserError("data.extractor: devices contribute raw samples, but a proxy file holds features: remove it")
    dataset = load_raw(config)
    x = dataset.x_train
    low, high = float(x.min()), float(x.max())
    rng = make_rng(config.seed, Purpose.PARTITION)
    n_clients = len(partition_function(config)(dataset.y_train, dataset.group_train, rng))
    return Wanted(n_clients, config.seed, str(np.dtype(x.dtype)), x.shape[1:], 2 * low - high, 2 * high - low)


def _receive(folder: Path, wanted: Wanted, options: Collecting, least: int) -> None:
    """Wait for the contributions and write the proxy set."""
    metrics = make_metrics()
    collection = Collection(folder, wanted, options.most, json_log(folder / "link.jsonl"))
    with ExitStack() as front_ends:
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
            status = f"{len(collection.contributors)} of {wanted.n_clients} clients have contributed"
            raise Stopped(f"{status}; their samples are in {folder}: run the same command to continue") from error
        collection.finish()
