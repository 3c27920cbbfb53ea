"""The sections of the audit page about extracted models and images reconstructed from soft labels."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgefd.auditing.recording.signal_store import Arrays
from edgefd.auditing.report.formats import interval_text
from edgefd.auditing.report.image_grid import grid
from edgefd.report.html import Table, escape, table_html

_SHOWN = 8  # reconstructions on the page


def extraction_html(extraction: Mapping[str, Any] | None) -> str:
    """Render how well the clients' models can be extracted; empty if it was not tested."""
    if not extraction:
        return ""
    rows = [
        (
            r["client"],
            r["rows"],
            interval_text(r["fidelity"]),
            f"{r['control_fidelity']:.3f}",
            f"{r['accuracy']:.3f}",
            f"{r['control_accuracy']:.3f}",
            f"{r['client_accuracy']:.3f}",
            "yes" if r["above_control"] else "no",
        )
        for r in extraction["clients"]
    ]
    head = ("client", "rows", "fidelity", "of control", "accuracy", "of control", "of client's model", "above control")
    return (
        "<h2>Extracted models</h2><p>For each client, a model was trained on nothing but the history of the client's "
        f"soft labels. Fidelity is the share of {extraction['tests']:,} test records to which the extracted model and "
        "the client's final model give the same class. The control was trained on the same soft labels, assigned to "
        "the wrong samples: what it reaches is disclosed by class frequencies alone.</p>"
        + table_html(Table(head, rows), "Extracted models")
    )


def inversion_html(inversion: Mapping[str, Any] | None, reconstructions: Arrays) -> str:
    """Render what images reconstructed from soft labels show; empty if there are none."""
    if not inversion or "reason" in inversion:
        return ""
    level = 1 - inversion["null_significance"]
    rows = [
        ("to the nearest private record, minus to the nearest held-out record", inversion["individual"]),
        (
            "to the nearest private record, minus the same of the mean of the class's proxy samples",
            inversion["over_proxy"],
        ),
        (
            "to the nearest private record, minus the same of a reconstruction from another client's soft labels",
            inversion["over_other"],
        ),
        (f"null control: the proxy mean, must cover 0 (at {level:.0%})", inversion["null"]),
        ("positive control: a planted record, must be above 0", inversion["positive"]),
    ]
    table = Table(("difference of SSIM", "mean, 95 %"), [(name, interval_text(value, "+")) for name, value in rows])
    return (
        "<h2>Images reconstructed from soft labels</h2><p>A decoder that was trained on the proxy samples "
        f"reconstructed {inversion['drawings']} images, one for each client and class. Its input is the pair of soft "
        "labels (of the client and of the server's model) in which the client is most confident. SSIM (structural "
        f"similarity) is 1 for equal images. To the nearest private record, it is {inversion['ssim_private']:.3f}; to "
        "the nearest of equally many records that the client held out and no client trained on, it is "
        f"{inversion['ssim_unseen']:.3f}. Only the difference comes from single records; what both have "
        "in common comes from the class.</p>" + table_html(table, "Differences of SSIM") + _images(reconstructions)
    )


def _images(s: Arrays) -> str:
    if "own" not in s or s["own"].shape[1] not in (1, 3):
        return ""
    first = np.argsort(s["own_unseen"] - s["own_private"], kind="stable")[:_SHOWN]
    columns = np.stack([s[name][first] for name in ("own", "near_private", "near_unseen")])
    image = base64.b64encode(grid(columns)).decode()
    shown = ", ".join(f"client {s['client'][i]} class {s['y'][i]}" for i in first)
    return (
        '<p><img class="images" alt="reconstructed images and the records nearest to them" '
        f'src="data:image/png;base64,{image}"></p><p class="note">Top: reconstruction. Middle: the nearest private '
        "record. Bottom: the nearest held-out record. Shown are those with the largest difference, of "
        f"{len(s['own'])}: {escape(shown)}. This picture shows private records of the simulation.</p>"
    )
