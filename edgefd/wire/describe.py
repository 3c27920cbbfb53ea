"""Descriptions for `edgefd inspect FILE`: the exact content of a message, field by field."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.errors import UserError
from edgefd.core.files import read
from edgefd.core.knowledge import Knowledge
from edgefd.core.npz import npz_arrays
from edgefd.core.text import shown
from edgefd.federation.values import ValueRange
from edgefd.wire import messages as wire
from edgefd.wire.expected import Expected, ExpectedReport

_MOST_BYTES = 2**30
_MOST_NUMBERS = 2**26
_MOST_CODED = 2**23  # of entropy-coded rows, which a small file can claim to have
_MOST_ROWS = 2**40  # ids are sums of gaps below 2**32
_LARGEST = float(np.finfo(np.float64).max)
_NUMBERS = ValueRange("numbers", float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))


def describe(path: Path) -> list[str]:
    """Return lines that describe a serialised report, teacher or plan, or an npz.

    Raises:
        UserError: if the file is none of these.
    """
    blob = read(path, _MOST_BYTES)
    if zipfile.is_zipfile(io.BytesIO(blob)):
        return [f"{shown(path.name)}: npz, {len(blob):,} bytes", *_arrays(path, blob)]
    # A plan is last: almost all knowledge could be read as a plan, but no plan has the codec of knowledge.
    for kind, lines in (("Report", _report), ("Knowledge", _knowledge), ("RoundPlan", _plan)):
        try:
            return [f"{shown(path.name)}: edgefd.v1.{kind}, {len(blob):,} bytes", *lines(blob)]
        except ValueError:
            continue
    raise UserError(f"{path} is neither a message of edgefd (report, teacher or plan) nor an npz: give such a file")


def _report(blob: bytes) -> list[str]:
    message = wire.parsed(pb.Report(), blob)
    metrics = dict.fromkeys(message.metrics, (-_LARGEST, _LARGEST))
    report = wire.decode_report(blob, ExpectedReport(message.round, _as_claimed(message.knowledge), metrics))
    measured = [f"  metric {shown(name)}: {value:.6g}" for name, value in sorted(report.metrics.items())]
    head = [f"  client: {report.client}", f"  round: {report.round}", *measured]
    return head + _rows(report.knowledge, message.knowledge)


def _plan(blob: bytes) -> list[str]:
    plan = wire.decode_plan(blob, _MOST_ROWS)
    if not len(plan.ids) or wire.encode_plan(plan) != blob:
        raise ValueError("a plan queries at least one row, and has no fields of other messages")
    kind = "closing" if plan.closing else "with reports"
    lines = [f"  round: {plan.round}, {kind}", f"  evaluate: {plan.evaluate}"]
    return [*lines, f"  queried proxy rows: {len(plan.ids)}"]


def _knowledge(blob: bytes) -> list[str]:
    message = wire.parsed(pb.Knowledge(), blob)
    return _rows(wire.decode(blob, _as_claimed(message)), message)


def _as_claimed(message: pb.Knowledge) -> Expected:
    """Return the shape and the codec that a message claims: nothing else is known of a file. Any number may be in it.

    Raises:
        ValueError: if its rows would not fit in memory.
    """
    n, width = wire.n_rows(message), message.width
    most = _MOST_CODED if message.rows else _MOST_NUMBERS
    if n * width > most:
        raise ValueError(f"{n} rows of {width} values are more than the {most} numbers that can be described")
    codec = next((name for name, number in wire.CODEC_NUMBERS.items() if number == message.codec), "float32")
    return Expected(range(_MOST_ROWS), range(width, width + 1), codec, _NUMBERS, 0.0)


def _rows(knowledge: Knowledge, message: pb.Knowledge) -> list[str]:
    """Return lines that describe the rows of knowledge."""
    ids, values, weights, width = knowledge.ids, knowledge.values, knowledge.weights, knowledge.width
    lines = [f"  codec: {pb.Codec.Name(message.codec)}", f"  rows: {len(ids)}, of {width} values each"]
    sizes = f"ids {len(message.id_gaps)} gaps, values {len(message.values):,}, weights {len(message.weights):,}"
    if message.codec == pb.CODEC_SIMPLEX15:
        sizes = f"values {len(message.values):,}, which also hold {message.runs} runs of ids" + (
            ", and the weights" if message.weighted else ""
        )
    lines.append(f"  bytes: {sizes}" + (f", classes {len(message.classes):,}" if message.kept else ""))
    if message.kept:
        lines.append(f"  sent of each row: {message.kept} values, and one number that all other values are equal to")
    if not len(ids):
        return [*lines, "  no row: the message discloses only the metrics above, if any"]
    lines.append(f"  bits per row: {8 * message.ByteSize() / len(ids):.1f}, with its id and weight")
    first = ", ".join(str(i) for i in ids[:10]) + (", ..." if len(ids) > 10 else "")
    lines.append(f"  proxy rows in the message: {first}  (this selection itself is disclosed: it is the filter's mask)")
    if message.weights or message.weighted:
        n_full = int((weights == 1).sum())
        lines.append(f"  weights: {weights.min():.6f} to {weights.max():.6f}, {n_full} of them exactly 1")
    else:
        lines.append("  weights: not sent, all are 1")
    sums = values.sum(1)
    lines.append(f"  values: {values.min():.6f} to {values.max():.6f}, row sums {sums.min():.4f} to {sums.max():.4f}")
    shares = np.bincount(values.argmax(1), minlength=width) / len(ids)
    lines.append("  largest value by class: " + " ".join(f"{c}:{share:.1%}" for c, share in enumerate(shares) if share))
    return lines


def _arrays(path: Path, blob: bytes) -> Iterator[str]:
    try:
        arrays = npz_arrays(blob, _MOST_BYTES)
    except ValueError as error:
        raise UserError(f"{path} is not an npz of plain arrays: {error}") from error
    for name, array in arrays.items():
        numeric = array.size and array.dtype.kind in "fiu"
        low, high = (f"{array.min():.6g}", f"{array.max():.6g}") if numeric else ("-", "-")
        yield f"  {shown(name)}: {array.dtype} {list(array.shape)}, {array.nbytes:,} bytes, {low} to {high}"
