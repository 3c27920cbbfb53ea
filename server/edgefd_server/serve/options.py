"""Options of a coordinator besides the config of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefd_server.grpc_link.server import ListenAddress


@dataclass(frozen=True)
class ServeOptions:
    """Options for serving a run, in addition to its config."""

    listen: ListenAddress | None
    """address of the device link; None = no device link, because the run has another front end"""
    bundles: Sequence[Path]
    """bundle folders, one for each of the config's models, in order: client i gets bundle i modulo their number"""
    metrics_port: int | None = None
    """port on this machine that serves Prometheus metrics; None = no metrics"""
    timeout: float = 600.0
    """seconds that a round may take"""
    status: str | None = None
    """[HOST:]PORT of the status page; None = no page"""
    certs: Path | None = None
    """folder of certificates with the allow-list; None = clients are not authenticated"""
