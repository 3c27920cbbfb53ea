"""Evaluate reconstructions: is there anything of single private records in them?

Only where a reconstruction is more similar to the nearest record that the client trained on than to the nearest one
that it held out, is anything of a single record in it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from edgefd.auditing.attacks.reconstructions import SOURCES
from edgefd.auditing.measures.ssim import WINDOW
from edgefd.auditing.measures.statistics import mean_interval
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Int64
from edgefd.federation.clients import Federation

_LEAST_RECONSTRUCTIONS = 8  # with fewer, an interval is too wide for the positive control
_NULL_SIGNIFICANCE = 0.01


def impossible(federation: Federation) -> str | None:
    """Return the reason if images cannot be reconstructed from this federation's soft labels, else None."""
    shape = federation.proxy.x.shape[1:]
    if len(shape) != 3 or min(shape[1:]) < WINDOW:
        return (
            f"it reconstructs images of {WINDOW} x {WINDOW} pixels or more, and samples here are of shape {list(shape)}"
        )
    if len(federation.clients) < 2:
        return "a control is reconstructed from another client's soft labels, and there is only one client"
    if federation.kept:
        return "proxy.keep: private records are among the proxy samples, so there is nothing left to reconstruct"
    return None


def inversion(signals: Arrays) -> tuple[dict[str, Any], list[str]]:
    """Return the results of the reconstructions, and a message for each control that failed.

    All differences are paired, over clients and classes. `individual`: SSIM to the nearest private record minus that to
    the nearest record that no client trained on, with the 95 % interval of Student's t. `over_proxy`, `over_other`:
    SSIM to the nearest private record, minus that of the mean of the class's proxy samples, or of the reconstruction
    from another client's soft labels. Null control: `individual` of the proxy mean, which contains nothing private: its
    99 % interval must cover 0. Positive control: `individual` where a private record replaced a tenth of the class's
    samples in the decoder's training: it must be above 0.
    """
    s, n = signals, len(signals["client"])
    if n < _LEAST_RECONSTRUCTIONS:
        return {"reason": f"{n} images can be reconstructed and compared, {_LEAST_RECONSTRUCTIONS} are needed"}, []
    gain = {name: s[f"{name}_private"] - s[f"{name}_unseen"] for name in SOURCES}
    null = mean_interval(gain["proxy"], _NULL_SIGNIFICANCE)
    positive = mean_interval(gain["planted"])
    failed = []
    if not null.low <= 0 <= null.high:
        failed.append(f"null control: inversion finds records where there are none (SSIM {null.value:+.3f})")
    if not positive.low > 0:
        failed.append(f"positive control: inversion does not reconstruct what was planted (SSIM {positive.value:+.3f})")
    individual = mean_interval(gain["own"])
    return {
        "drawings": n,
        "ssim_private": float(s["own_private"].mean()),
        "ssim_unseen": float(s["own_unseen"].mean()),
        "individual": asdict(individual),
        "reconstructs": individual.low > 0,
        "over_proxy": asdict(mean_interval(s["own_private"] - s["proxy_private"])),
        "over_other": asdict(mean_interval(s["own_private"] - s["other_private"])),
        "null": asdict(null),
        "null_significance": _NULL_SIGNIFICANCE,
        "positive": asdict(positive),
        "clients": [_client_row(s, gain["own"], int(c)) for c in np.unique(s["client"])],
    }, failed


def _client_row(s: Arrays, gain: np.ndarray, client: int) -> dict[str, Any]:
    rows: Int64 = np.flatnonzero(s["client"] == client)
    return {
        "client": client,
        "classes": s["y"][rows].tolist(),
        "ssim_private": s["own_private"][rows].tolist(),
        "ssim_unseen": s["own_unseen"][rows].tolist(),
        "individual": float(gain[rows].mean()),
    }
