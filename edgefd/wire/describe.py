"""`edgefd inspect FILE`: exactly what is in a message, field by field."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.wire import messages as wire


def describe(path: Path) -> list[str]:
    """Lines about a report, a teacher or a plan on the wire, or an npz.

    Raises:
        UserError: if it is none of them.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if zipfile.is_zipfile(path):
        return [f"{path.name}: npz, {len(blob):,} bytes", *_arrays(path)]
    for kind, lines in (("Report", _report), ("RoundPlan", _plan), ("Knowledge", _knowledge)):
        try:
            return [f"{path.name}: edgefd.v1.{kind}, {len(blob):,} bytes", *lines(blob)]
        except ValueError:
            continue
    raise UserError(f"{path} is neither a message of edgefd (report, teacher, plan) nor an npz")


def _report(blob: bytes) -> list[str]:
    report = wire.decode_report(blob)
    message = wire.parsed(pb.Report(), blob)
    metrics = [f"  metric {name}: {value:.6g}" for name, value in sorted(report.metrics.items())]
    head = [f"  client: {report.client}", f"  round: {report.round}", *metrics]
    return head + _rows(report.knowledge, message.knowledge)


def _plan(blob: bytes) -> list[str]:
    plan = wire.decode_plan(blob)
    out = [f"  seed: {plan.seed}", f"  round: {plan.round}", f"  evaluate: {plan.evaluate}"]
    return [*out, f"  proxy rows that may be answered for: {len(plan.ids)}", f"  training: {plan.training}"]


def _knowledge(blob: bytes) -> list[str]:
    return _rows(wire.decode(blob), wire.parsed(pb.Knowledge(), blob))


def _rows(k: Knowledge, message: pb.Knowledge) -> list[str]:
    """What the rows are, in words and numbers."""
    out = [f"  codec: {pb.Codec.Name(message.codec)}", f"  rows: {len(k)}, of {k.width} values each"]
    sizes = f"ids {len(message.id_gaps)} gaps, values {len(message.values):,}, weights {len(message.weights):,}"
    out.append(f"  bytes: {sizes}" + (f", classes {len(message.classes):,}" if message.kept else ""))
    if message.kept:
        out.append(f"  of each row {message.kept} values are told, and one number that all others are")
    if not len(k):
        return [*out, "  no row: only the metrics above, if any, are told"]
    shown = ", ".join(str(i) for i in k.ids[:10]) + (", ..." if len(k) > 10 else "")
    out.append(f"  proxy rows answered for: {shown}  (which they are is itself told: the filter's mask)")
    if message.weights:
        whole = int((k.weights == 1).sum())
        out.append(f"  weights: {k.weights.min():.6f} to {k.weights.max():.6f}, {whole} of them exactly 1")
    else:
        out.append("  weights: none, all are 1")
    sums = k.values.sum(1)
    out.append(f"  values: {k.values.min():.6f} to {k.values.max():.6f}, row sums {sums.min():.4f} to {sums.max():.4f}")
    shares = np.bincount(k.values.argmax(1), minlength=k.width) / len(k)
    out.append("  largest value by class: " + " ".join(f"{c}:{share:.1%}" for c, share in enumerate(shares) if share))
    return out


def _arrays(path: Path) -> Iterator[str]:
    try:
        with np.load(path, allow_pickle=False) as z:
            for name in z.files:
                a = z[name]
                low, high = (f"{a.min():.6g}", f"{a.max():.6g}") if a.size and a.dtype.kind in "fiu" else ("-", "-")
                yield f"  {name}: {a.dtype} {list(a.shape)}, {a.nbytes:,} bytes, {low} to {high}"
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no npz of plain arrays: {error}") from error
