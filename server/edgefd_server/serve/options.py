"""Options of a coordinator besides the config of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefd_server.grpc_link.device_service import ListenAddress


@dataclass(frozen=True)
class ServeOptions:
    """How a run is served, beside its config."""

    listen: ListenAddress | None
    """where devices call; None = nowhere, there is another door"""
    bundles: Sequence[Path]
    """one for each of the config's models, in order: client i gets the i-th in turn"""
    metrics_port: int | None = None
    """where to serve Prometheus metrics on this machine, if anywhere"""
    timeout: float = 600.0
    """seconds that a round may take"""
    status: str | None = None
    """[HOST:]PORT of the status page, if there is one"""
    certs: Path | None = None
    """folder of the allow-list, if clients prove who they are"""
