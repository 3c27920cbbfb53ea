"""Formats of numbers on the audit page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal


def interval_text(estimate: Mapping[str, float], sign: Literal["", "+"] = "") -> str:
    """Format an estimate with its interval, such as 0.731 [0.702, 0.760], or with signs +0.031 [+0.002, +0.060]."""
    value, low, high = (f"{estimate[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
