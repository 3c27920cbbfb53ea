"""Formats of numbers on the audit page."""

from __future__ import annotations

from collections.abc import Mapping


def interval_text(estimate: Mapping[str, float]) -> str:
    """Format an estimate with its interval, such as 0.731 [0.702, 0.760]."""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def signed_interval_text(estimate: Mapping[str, float]) -> str:
    """Format a difference with its interval, such as +0.031 [+0.002, +0.060]."""
    return f"{estimate['value']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]"
