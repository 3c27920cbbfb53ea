"""Options of a coordinator besides its run and its front ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeOptions:
    """Options for serving a run."""

    timeout: float = 600.0
    """seconds that a round may take"""
    status: str | None = None
    """[HOST:]PORT of the status page; None = no page"""
    metrics_port: int | None = None
    """port on this machine that serves Prometheus metrics; None = no metrics"""
