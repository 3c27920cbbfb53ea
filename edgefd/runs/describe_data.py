"""Describe the data of a prepared run in a few lines: classes, samples, proxy set and clients."""

from __future__ import annotations

import textwrap

import numpy as np

from edgefd.config.schema import Proxy
from edgefd.core.arrays import Int64
from edgefd.core.text import shown
from edgefd.data.datasets import Dataset
from edgefd.runs.prepare import PreparedRun

WIDTH = 78
LISTED_CLASSES = 30
"""with more classes than this, the number of samples of each class is not listed"""


def describe_data(prepared: PreparedRun) -> list[str]:
    """Return lines of at most 78 characters about the data set, the proxy set and the clients."""
    d, f = prepared.dataset, prepared.federation
    low, high = d.x_train.min(), d.x_train.max()
    held_out, shared = [len(c.x_heldout) for c in f.clients], [len(c.contributed) for c in f.clients]
    return [
        f"{d.name} from {d.source}: {len(d.x_train)} + {len(d.x_test)} samples",
        f"  sha256: {d.sha256}",
        *_wrapped(f"  classes: {d.n_classes}, {_labels(d)}"),
        f"  samples: {d.x_train.dtype} {list(d.x_train.shape[1:])}, training values from {low:g} to {high:g}",
        *_by_class("training samples", d.y_train, d.n_classes),
        *_by_class("test samples", d.y_test, d.n_classes),
        *([] if d.group_train is None else [f"  groups of training samples: {len(np.unique(d.group_train))}"]),
        f"{len(f.clients)} clients, {len(f.proxy)} proxy samples, {f.raw_samples_disclosed} raw samples disclosed",
        *_wrapped(f"  proxy set: {_source(prepared.config.proxy)}"),
        f"  to train on, each client: {_spread([len(c.x) for c in f.clients])}",
        f"  held out, each client: {_spread(held_out)}",
        f"  contributed, each client: {_spread(shared)}",
        f"  classes of each client: {_spread((f.table > 0).sum(1).tolist())}",
        *(line for warning in prepared.all_warnings for line in _wrapped(f"warning: {warning}")),
    ]


def _labels(dataset: Dataset) -> str:
    """Return the labels of the classes; those of a source that are not 0, 1, ... are mapped to the classes."""
    names = dataset.label_names
    if names is None:
        return f"with the labels 0 to {dataset.n_classes - 1}"
    listed = ", ".join(f"{c} = {shown(name, WIDTH)}" for c, name in enumerate(names[:LISTED_CLASSES]))
    more = f", and {len(names) - LISTED_CLASSES} more" if len(names) > LISTED_CLASSES else ""
    return f"to which the labels are mapped: {listed}{more}"


def _by_class(name: str, y: Int64, n_classes: int) -> list[str]:
    """Return the number of samples of each class."""
    counts = np.bincount(y, minlength=n_classes).tolist()
    if len(set(counts)) == 1:
        text = f"{counts[0]} of each class"
    elif n_classes > LISTED_CLASSES:
        text = f"by class {_spread(counts)}"
    else:
        text = "by class " + ", ".join(f"{label}: {count}" for label, count in enumerate(counts))
    return _wrapped(f"  {name}: {len(y)}, {text}")


def _source(proxy: Proxy) -> str:
    """Return the origin of the proxy samples of a config."""
    if proxy.path is not None:
        return f"{proxy.source} samples of {proxy.path}"
    if proxy.source == "public":
        return f"{proxy.alpha:g} of the training set, taken before the split"
    kept = "the client also keeps" if proxy.keep else "the client does not keep"
    return f"{proxy.alpha:g} of each client's samples, which {kept}"


def _spread(counts: list[int]) -> str:
    """Return the smallest, the middle and the largest of some counts.

    >>> _spread([3, 1, 2, 2]), _spread([5, 5])
    ('min 1, median 2, max 3', '5')
    """
    if len(set(counts)) == 1:
        return str(counts[0])
    return f"min {min(counts)}, median {np.median(counts):g}, max {max(counts)}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
