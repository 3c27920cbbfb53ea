"""The settings and the numbers of a run, in the form in which trackers store them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from edgefd.config.flat import flat_settings
from edgefd.config.schema import Config
from edgefd.runs.personal_metrics import QUANTILES
from edgefd.runs.round_metrics import RoundMetrics

_FIELDS = tuple(
    name
    for name, kind in get_type_hints(RoundMetrics).items()
    if name != "round" and kind in (int, float, int | None, float | None)
)
_QUANTILES = tuple(f"accuracy_quantile_{100 * q:.0f}" for q in QUANTILES)
NAMES = (*_FIELDS, *_QUANTILES)
"""names of all numbers of a round; the quantiles over clients, in per cent, stand for the lists by client"""


def round_numbers(metrics: RoundMetrics) -> dict[str, float]:
    """Return the numbers of a round that were measured, by name."""
    values = {name: getattr(metrics, name) for name in _FIELDS}
    quantiles = dict(zip(_QUANTILES, metrics.accuracy_quantiles or (), strict=False))
    return {name: value for name, value in (values | quantiles).items() if value is not None}


def summary_numbers(summary: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the numbers of a summary, by such names as summary/accuracy_mean."""
    return {f"summary/{name}": value for name, value in (summary or {}).items() if isinstance(value, int | float)}


def settings(config: Config) -> dict[str, str | bool | int | float]:
    """Return every setting under a name such as train.rounds; lists and sections within it as text."""
    flat = flat_settings(config.to_dict())
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in flat.items()}
