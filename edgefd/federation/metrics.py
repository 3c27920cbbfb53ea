"""The metrics that a client measures and reports: a closed list of names, each with a range of values."""

from __future__ import annotations

from collections.abc import Mapping

from edgefd.federation.terms import FederationTerms

Range = tuple[float, float]
"""smallest and largest value"""
SHARE: Range = (0.0, 1.0)
_LOSS: Range = (-1e6, 1e6)


def client_metrics(terms: FederationTerms) -> dict[str, Range]:
    """Return the range of each metric that a client of the federation may report, by name."""
    of_rule = terms.selection.metric_ranges(terms.n_classes)
    return {"heldout_accuracy": SHARE, "train_loss": _LOSS, "distil_loss": _LOSS, **of_rule}


def bounded(metrics: Mapping[str, float], ranges: Mapping[str, Range]) -> dict[str, float]:
    """Return metrics whose values are in their ranges. The loss of a model that has diverged becomes the largest one.

    >>> bounded({"train_loss": float("nan"), "accuracy": 0.5}, {"train_loss": (-1e6, 1e6)})
    {'train_loss': 1000000.0, 'accuracy': 0.5}
    """
    out = dict(metrics)
    for name in out.keys() & ranges.keys():
        least, most = ranges[name]
        if not least <= out[name] <= most:  # also true for NaN
            out[name] = least if out[name] < least else most
    return out
