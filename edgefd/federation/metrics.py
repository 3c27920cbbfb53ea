"""The metrics that a client measures and reports: a closed list of names, each with a range of values."""

from __future__ import annotations

from collections.abc import Mapping

from edgefd.federation.terms import FederationTerms

Range = tuple[float, float]
"""smallest and largest value"""
SHARE: Range = (0.0, 1.0)
_LOSS: Range = (-1e6, 1e6)


def client_metrics(terms: FederationTerms) -> dict[str, Range]:
    """Return the range of each metric that a client of the federation may report, by name.

    Metrics depend on private data, and no noise covers them: under a defence with an epsilon, there are none.
    """
    if terms.private:
        return {}
    of_rule = terms.selection.metric_ranges(terms.n_classes)
    return {"heldout_accuracy": SHARE, "train_loss": _LOSS, "distil_loss": _LOSS, **of_rule}


def reportable(metrics: Mapping[str, float], ranges: Mapping[str, Range]) -> dict[str, float]:
    """Return the metrics that have a range, with values in it. The loss of a diverged model becomes the largest one.

    >>> reportable({"train_loss": float("nan"), "secret": 0.5}, {"train_loss": (-1e6, 1e6)})
    {'train_loss': 1000000.0}
    """
    out = {name: value for name, value in metrics.items() if name in ranges}
    for name in out:
        least, most = ranges[name]
        if not least <= out[name] <= most:  # also true for NaN
            out[name] = least if out[name] < least else most
    return out
