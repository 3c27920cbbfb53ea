"""Measurement of a board for `edgefd-client doctor --profile`: the profile that `devices` of a simulation reads."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgefd.core.errors import UserError
from edgefd.core.files import os_errors, put
from edgefd.core.yaml_files import dump_yaml
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.device_profile import DeviceProfile, profiles_in
from edgefd.learners.batches import Batch
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.rounds.client import client_filter
from edgefd.wire.bundle_reader import Bundle
from edgefd_client.agent import method_of

SECONDS = 5.0
"""duration of the measurement of training steps, and of that of predictions"""
_LEAST = 5  # measured steps


def write_profile(bundle: Bundle, path: Path) -> DeviceProfile:
    """Measure this machine with a bundle, and write its profile; return it.

    The name of the profile is that of the file. If the file exists, the times of the bundle's model are replaced or
    added, and everything else stays: several models can be measured, and links and energy can be filled in.

    Raises:
        UserError: if the file exists and holds something else than this profile, or cannot be written.
    """
    name, known = path.stem, profiles_in(path) if path.exists() else {}
    if set(known) - {name}:
        raise UserError(f"{path} holds other profiles than {name}: give another file")
    profile = measured(bundle, known.get(name), SECONDS)
    with os_errors(f"write {path}"):
        put(path, dump_yaml({name: {k: v for k, v in dataclasses.asdict(profile).items() if v is not None}}).encode())
    return profile


def measured(bundle: Bundle, before: DeviceProfile | None, seconds: float) -> DeviceProfile:
    """Return the profile of this machine, with the times of the bundle's model and those that are known already.

    Times are medians. A step is one of a full batch. The filter runs on the proxy set in place of private data.

    Args:
        bundle: the bundle whose model is trained.
        before: the profile so far; None = none.
        seconds: duration of the measurement of training steps, and of that of predictions.

    Raises:
        UserError: if the steps so far were measured with another batch.
    """
    manifest, size = bundle.manifest, bundle.manifest.batch
    if before is not None and before.step_seconds and before.step_rows != size:
        raise UserError(
            f"the profile holds times of steps of {before.step_rows} rows, but those of the bundle have {size}: give "
            "another file"
        )
    learner = OnnxLearner(Sessions(bundle.graphs), bundle.init)
    rows = np.arange(size) % len(bundle.proxy)
    targets = np.full((size, bundle.graphs.n_classes), 1 / bundle.graphs.n_classes, np.float32)
    batch = Batch(bundle.proxy[rows], targets, np.ones(size, np.float32))
    step = _median_seconds(lambda: learner.train([batch], 1e-4), seconds)
    predict = _median_seconds(lambda: learner.predict_logits(batch.x), seconds)
    start = time.perf_counter()
    n_rows = _run_filter(bundle)
    of_filter = (time.perf_counter() - start) / n_rows
    profile = before or DeviceProfile(
        f"{platform.machine()} {platform.system()}, measured by edgefd-client doctor; links, availability and energy "
        "are not measured: fill them in"
    )
    return dataclasses.replace(
        profile,
        step_seconds={**profile.step_seconds, manifest.model: step},
        predict_seconds={**profile.predict_seconds, manifest.model: predict},
        step_rows=size,
        filter_row_seconds=of_filter,
    )


def _median_seconds(act: Callable[[], object], seconds: float) -> float:
    """Return the median duration of a call, over a number of seconds, after one that does not count."""
    act()
    durations: list[float] = []
    while len(durations) < _LEAST or sum(durations) < seconds:
        start = time.perf_counter()
        act()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def _run_filter(bundle: Bundle) -> int:
    """Run the filter of the bundle's method with the proxy set as private data; return the rows that it has seen."""
    method, config = method_of(bundle)
    proxy, n_classes = bundle.proxy, bundle.manifest.n_classes
    n_heldout = max(1, round(bundle.manifest.heldout * len(proxy)))
    y = np.arange(len(proxy)) % n_classes
    data = ClientData(0, proxy[n_heldout:], y[n_heldout:], proxy[:n_heldout], y[:n_heldout], np.empty(0, np.int64))
    client_filter(method, config, data, ProxySet(proxy, np.full(len(proxy), -1)), bundle.manifest.terms)
    return 2 * len(proxy)
