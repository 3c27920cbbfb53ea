"""`edgefd-client run`: take part in one run, or in one run after the other."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgefd.core.errors import UserError, require
from edgefd.federation.clients import ClientData
from edgefd.wire.bundle_reader import Bundle
from edgefd.wire.exchange_folder import FEDERATION
from edgefd_client.agent import method_of, run_agent
from edgefd_client.contribution import Contribution, load_contribution
from edgefd_client.link import GIVE_UP, Link, RunEnded
from edgefd_client.options import DeviceOptions
from edgefd_client.retention import Retention
from edgefd_client.sources import Samples, client_data, read_samples, source_of
from edgefd_client.state import exclusive_lock, new_state
from edgefd_client.trust import read_trusted_bundle

_LOG = logging.getLogger(__name__)

PAUSE_AFTER_STOP = 30.0
"""seconds for which a device of --forever waits after a coordinator has stopped its run"""
_EXCHANGE = (
    "--exchange needs --bundle and --client, and cannot be combined with --certs, --insecure, --give-up, --bundle-url "
    "or --cache"
)
_print_line = partial(print, flush=True)


@dataclass(frozen=True)
class RunOptions(DeviceOptions):
    """Options of `edgefd-client run`; it takes part either over `server` or through the folder `exchange`."""

    bundle: Path | None
    exchange: Path | None
    bundle_url: str | None
    """address of the bundle's folder on a web server; None = the coordinator sends it"""
    cache: Path | None
    """folder of files of bundles by their digest; None = in the user's cache"""
    trust_graph: str | None
    """digest of graphs that the catalogue does not know; None = run known graphs only"""
    query: str | None = None
    """SELECT statement for an SQLite file"""
    keep: int | None = None
    """number of newest samples to use; None = all"""
    keep_per_class: int | None = None
    """number of samples of each class to use; None = all"""
    max_age: int | None = None
    """days for which an image of a folder is used; None = always"""
    growing: bool | None = None
    """read the data again before each round"""
    forever: bool | None = None
    """take part in one run after the other"""

    @property
    def retention(self) -> Retention:
        """Limits on the samples that the device keeps."""
        return Retention(self.keep, self.keep_per_class)

    @property
    def patience(self) -> float:
        """Seconds without an answer of a coordinator after which the device stops."""
        return self.give_up or (math.inf if self.forever else GIVE_UP)


def run(options: RunOptions) -> None:
    """Take part in a federation until its run is complete, or in one run after the other; print one line per round."""
    signal.signal(signal.SIGTERM, _exit_cleanly)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script ignores SIGINT in background processes
    options.check()
    if (options.exchange is None) == (options.server is None):
        raise UserError("give either --server HOST:PORT or --exchange DIR")
    others = (options.certs, options.give_up, options.bundle_url, options.cache)
    if options.exchange is not None and (options.insecure or any(other is not None for other in others)):
        raise UserError(_EXCHANGE)
    with new_state(options.state):
        finished = _one_run(options, None)
        while options.forever:
            _LOG.info("waiting for the next run")
            finished = _one_run(options, finished)


def _one_run(options: RunOptions, finished: str | None) -> str | None:
    """Take part in a run, and return its identifier; None if it stopped, so that the device may take part again.

    `finished` is the run that the device has finished before.
    """
    try:
        run = _run_over_grpc(options, finished) if options.exchange is None else _run_over_folder(options, finished)
    except RunEnded as error:
        if not options.forever:
            raise
        _LOG.warning("%s", error)
        time.sleep(PAUSE_AFTER_STOP)
        return None
    _print_line("the run is complete")
    return run


def _run_over_folder(options: RunOptions, finished: str | None) -> str:
    from edgefd_client.folder_link import join

    exchange = options.exchange
    if exchange is None or options.bundle is None or options.client is None:
        raise UserError(_EXCHANGE)
    bundle = read_trusted_bundle(options.bundle, options.trust_graph)
    if not 0 <= options.client < bundle.manifest.n_clients:
        raise UserError(f"--client must be from 0 to {bundle.manifest.n_clients - 1}, not {options.client}")
    method_of(bundle)  # report errors in bundle or data before the coordinator is there
    samples = _samples(options, bundle)
    client_data(samples, bundle, options.client, load_contribution(options.state), bool(options.growing))
    if not (exchange / FEDERATION).exists():
        _LOG.info("waiting for the coordinator to open %s", exchange)
    link = join(exchange, options.client, bundle.manifest.terms, finished=finished)
    _take_part(options, link, bundle, options.client, samples if finished is None else _samples(options, bundle))
    return link.membership.run


def _run_over_grpc(options: RunOptions, finished: str | None) -> str:
    require("client", "grpc")
    from edgefd.rounds.validation import expected_task
    from edgefd_client.facts import device_facts
    from edgefd_client.grpc_link import GrpcLink, connect
    from edgefd_client.http_source import check_url

    assert options.server is not None
    given, trust = options.bundle, options.trust_graph
    if options.bundle_url is not None:
        check_url(options.bundle_url)
    if given is not None and (options.bundle_url or options.cache) is not None:
        raise UserError("--bundle names the bundle, so --bundle-url and --cache are not used: leave it out, or them")
    bundle = _fetched_bundle(options, finished) if given is None else read_trusted_bundle(given, trust)
    method, manifest = method_of(bundle)[0], bundle.manifest
    samples = _samples(options, bundle)  # data in other units are refused before the device joins
    largest = expected_task(method, manifest.terms, len(bundle.proxy), manifest.n_clients).largest
    with connect(options.server, options.certs, bool(options.insecure), largest) as channel:
        facts = partial(device_facts, options.state)
        link = GrpcLink(channel, options.client, _LOG.warning, options.patience, options.certs, facts)
        link.join(manifest.terms, finished)
        if bundle.digest != link.manifest_sha256:
            raise UserError("the bundle differs from the coordinator's: leave --bundle out to fetch it")
        _take_part(options, link, bundle, link.client, samples if finished is None else _samples(options, bundle))
        return link.membership.run


def _fetched_bundle(options: RunOptions, finished: str | None) -> Bundle:
    """Download the bundle, over a connection of its own: the size of a task is known only afterwards."""
    from edgefd_client.bundle_cache import default_cache
    from edgefd_client.bundle_download import Sources, fetch_bundle
    from edgefd_client.grpc_link import GrpcLink, connect

    assert options.server is not None
    with connect(options.server, options.certs, bool(options.insecure)) as channel:
        link = GrpcLink(channel, options.client, _LOG.warning, options.patience, options.certs)
        link.join(None, finished)
        with exclusive_lock(options.state):
            sources = Sources(default_cache() if options.cache is None else options.cache, options.bundle_url)
            return read_trusted_bundle(fetch_bundle(link, options.state, sources), options.trust_graph)


def _take_part(options: RunOptions, link: Link, bundle: Bundle, client: int, samples: Samples) -> None:
    """Run the rounds of a device. With --growing, read its data again before each; data with a fault are not used."""
    contribution = load_contribution(options.state)
    if contribution is not None and not options.retention.keeps_all:
        raise UserError("--keep and --keep-per-class cannot be combined with a contribution: leave them out")

    def read_again() -> ClientData | None:
        try:
            newest = _samples(options, bundle)
            return client_data(newest, bundle, client, contribution, True)
        except UserError as error:
            _LOG.warning("the data cannot be read again, so those of the round before are used: %s", error)
            return None

    private = _private_data(options, bundle, client, samples, contribution)
    again = {"read_again": read_again} if options.growing else {}
    run_agent(link, bundle, private, options.state, _print_line, **again)


def _samples(options: RunOptions, bundle: Bundle) -> Samples:
    by_time = options.keep is not None
    source = source_of(options.data, bundle.manifest, options.query, by_time, options.max_age)
    return read_samples(source, bundle, options.retention)


def _private_data(
    options: RunOptions, bundle: Bundle, client: int, samples: Samples, contribution: Contribution | None
) -> ClientData:
    private = client_data(samples, bundle, client, contribution, bool(options.growing))
    if contribution is not None:
        n_offered, n_used = len(contribution.rows), len(private.contributed)
        _print_line(f"this device offered {n_offered} samples; {n_used} rows of the proxy set are its own")
    return private


def _exit_cleanly(signum: int, frame: object) -> None:
    """Exit with code 0 on SIGTERM, with which services are stopped. The state is already saved."""
    sys.exit(0)
