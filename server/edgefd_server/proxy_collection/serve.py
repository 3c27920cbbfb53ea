"""Collecting a proxy set from devices, before there is a bundle or a run; it can be killed at any moment and go on."""

from __future__ import annotations

import math
import sys
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
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.monitoring.event_log import json_log
from edgefd_server.monitoring.prometheus import make_metrics, metrics_server
from edgefd_server.proxy_collection.service import Collector, open_collector
from edgefd_server.proxy_collection.store import PROXY, Collection, Wanted, open_folder


@dataclass(frozen=True)
class Collecting:
    """How samples are collected, beside the config."""

    listen: ListenAddress
    most: int = 10_000
    """samples that one client may contribute"""
    deadline: float = math.inf
    """seconds after which not everybody is waited for"""
    least: int | None = None
    """clients that must have contributed by then; None = all"""
    metrics_port: int | None = None
    """where to serve Prometheus metrics on this machine, if anywhere"""


@dataclass(frozen=True)
class Collected:
    """What has come of it."""

    path: Path
    samples: int
    clients: int


def collect(config: Config, how: Collecting, folder: Path) -> Collected:
    """Take contributions of the config's clients into `folder`, and make its proxy.npz of them.

    What is in the folder already counts; if proxy.npz is, that is all.

    Raises:
        UserError: if the config knows no such proxy set, the folder is another's, or it cannot listen there.
        RunError: if too few have contributed in time, or something cannot be written.
        Stopped: on Ctrl-C.
    """
    wanted = wanted_of(config)
    least = wanted.n_clients if how.least is None else how.least
    if not 1 <= least <= wanted.n_clients:
        raise UserError(f"--least must be from 1 to {wanted.n_clients}, the clients of the config, not {least}")
    with exclusive_lock(folder):
        open_folder(folder, wanted)
        if not (folder / PROXY).exists():
            _receive(folder, wanted, how, least)
        arrays = read_npz(folder / PROXY, ("x", CONTRIBUTORS))
        return Collected(folder / PROXY, len(arrays["x"]), int(arrays[CONTRIBUTORS]))


def wanted_of(config: Config) -> Wanted:
    """What the config's clients may contribute: samples as its data set has them, that are not far off.

    Values may lie beyond those of the training samples by as much as those differ among themselves.

    Raises:
        UserError: if the config's proxy set cannot be contributed by devices.
    """
    check_deployable(config)
    if not config.method.uses_proxy:
        raise UserError(f"method {config.method_name} has no proxy set: there is nothing to collect")
    if config.data.extractor is not None:
        raise UserError("data.extractor: devices contribute raw samples, a proxy file holds features: leave it out")
    dataset = load_raw(config)
    x = dataset.x_train
    low, high = float(x.min()), float(x.max())
    rng = make_rng(config.seed, Purpose.PARTITION)
    n_clients = len(partition_function(config)(dataset.y_train, dataset.group_train, rng))
    return Wanted(n_clients, config.seed, str(np.dtype(x.dtype)), x.shape[1:], 2 * low - high, 2 * high - low)


def _receive(folder: Path, wanted: Wanted, how: Collecting, least: int) -> None:
    metrics = make_metrics()
    collection = Collection(folder, wanted, how.most, json_log(folder / "link.jsonl"))
    with ExitStack() as front_ends:
        front_ends.enter_context(metrics_server(metrics, how.metrics_port))
        grpc_server = front_ends.enter_context(open_collector(Collector(collection), how.listen, metrics))
        if how.listen.certs is None:
            print(
                "warning: without --certs raw samples travel unencrypted, from whoever says he is a client",
                file=sys.stderr,
            )
        there = len(collection.contributors)
        has = f", {there} of them contributed already" if there else ""
        print(f"waiting for samples of {wanted.n_clients} clients on port {grpc_server.port}{has}", flush=True)
        try:
            collection.wait(least, how.deadline)
            collection.linger()
        except KeyboardInterrupt as error:
            come = f"{len(collection.contributors)} of {wanted.n_clients} clients have contributed"
            raise Stopped(f"{come}, which is kept in {folder}: the same command goes on") from error
        collection.finish()
