"""Encoding of messages as bytes: one protobuf (proto/edgefd_proto/edgefd.proto) for all transports and simulations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from edgefd_proto import edgefd_pb2 as pb
from google.protobuf.message import Message

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.learners.batches import one_hot
from edgefd.wire.codecs import CODECS, Codec, labels_size, pack_labels, unpack_labels

AnyMessage = TypeVar("AnyMessage", bound=Message)

_TO_PB = {
    "float32": pb.CODEC_FLOAT32,
    "float16": pb.CODEC_FLOAT16,
    "uint8": pb.CODEC_UINT8,
    "uint4": pb.CODEC_UINT4,
}
_FROM_PB = {v: k for k, v in _TO_PB.items()}
_MAX_EXPANDED = 2**26
"""largest count of numbers that labels or shortened rows may expand to, so that few bytes cannot use up the memory"""


def encode(knowledge: Knowledge, codec: str) -> bytes:
    """Return knowledge as a serialised `edgefd.v1.Knowledge`.

    If all rows are one-hot and have weight 1, they are sent as labels with every codec; nothing is lost. If all but a
    few values of each row are equal, as the defence top-k makes them, each row is sent as these few values, their
    classes and the repeated value once, where this is shorter; nothing is lost either. A weight that is too small for
    the codec is written as the smallest number that the codec has, so that an accepted row stays accepted.
    """
    return _knowledge_message(knowledge, codec).SerializeToString()


def decode(data: bytes) -> Knowledge:
    """Return the knowledge in a serialised `edgefd.v1.Knowledge`.

    Raises:
        ValueError: if the bytes are not a well-formed `edgefd.v1.Knowledge`.
    """
    return _knowledge_of(parsed(pb.Knowledge(), data))


def encode_plan(plan: RoundPlan) -> bytes:
    """Return a plan as a serialised `edgefd.v1.RoundPlan`."""
    message = pb.RoundPlan(round=plan.round, id_gaps=_gaps(plan.ids), evaluate=plan.evaluate, closing=plan.closing)
    return message.SerializeToString()


def decode_plan(data: bytes) -> RoundPlan:
    """Return the plan in a serialised `edgefd.v1.RoundPlan`.

    Raises:
        ValueError: if the bytes are not a well-formed `edgefd.v1.RoundPlan`.
    """
    message = parsed(pb.RoundPlan(), data)
    return RoundPlan(message.round, _ids(message.id_gaps), message.evaluate, message.closing)


def encode_report(report: Report, codec: str) -> bytes:
    """Return a report as a serialised `edgefd.v1.Report`. Equal reports have equal bytes in every process."""
    message = pb.Report(
        client=report.client,
        round=report.round,
        knowledge=_knowledge_message(report.knowledge, codec),
        metrics=report.metrics,
    )
    return message.SerializeToString(deterministic=True)


def decode_report(data: bytes) -> Report:
    """Return the report in a serialised `edgefd.v1.Report`.

    Raises:
        ValueError: if the bytes are not a well-formed `edgefd.v1.Report`.
    """
    message = parsed(pb.Report(), data)
    if not message.HasField("knowledge"):
        raise ValueError("the report has no knowledge")
    metrics = dict(message.metrics)
    if not_finite := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise ValueError(f"metrics must be finite: {', '.join(sorted(not_finite))}")
    knowledge = _knowledge_of(message.knowledge)
    return Report(message.client, message.round, knowledge, metrics, message.knowledge.ByteSize())


def parsed(message: AnyMessage, data: bytes) -> AnyMessage:
    """Fill a message from bytes and return it.

    Raises:
        ValueError: if the bytes are not a message of that kind.
    """
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError is not a stable import across its back ends
        raise ValueError(f"not an {message.DESCRIPTOR.full_name}: {error}") from error
    return message


def _knowledge_message(knowledge: Knowledge, codec: str) -> pb.Knowledge:
    if _is_labels(knowledge):
        labels = pack_labels(knowledge.values.argmax(1), knowledge.width)
        return pb.Knowledge(id_gaps=_gaps(knowledge.ids), width=knowledge.width, codec=pb.CODEC_LABEL, values=labels)
    number = CODECS[codec]
    weights = np.maximum(knowledge.weights, np.float32(number.smallest))
    n_top = _n_top_values(knowledge.values, number)
    values, classes = _top_values(knowledge.values, n_top) if n_top else (knowledge.values, None)
    return pb.Knowledge(
        id_gaps=_gaps(knowledge.ids),
        width=knowledge.width,
        codec=_TO_PB[codec],
        values=number.encode(values),
        weights=b"" if (weights == 1).all() else number.encode(weights),
        kept=n_top,
        classes=b"" if classes is None else pack_labels(classes, knowledge.width),
    )


def _knowledge_of(message: pb.Knowledge) -> Knowledge:
    ids: Int64 = np.cumsum(np.array(message.id_gaps, np.int64))
    n, width = len(ids), message.width
    if message.codec == pb.CODEC_LABEL:
        if message.weights or message.kept or message.classes:
            raise ValueError("labels have weight 1: weights, kept and classes must be empty")
        _check_size(n, width)
        labels = unpack_labels(message.values, n, width)
        return Knowledge(ids, one_hot(labels, width), np.ones(n, np.float32))
    if message.codec not in _FROM_PB:
        raise ValueError(f"unknown codec {message.codec}")
    codec = CODECS[_FROM_PB[message.codec]]
    per_row = message.kept + 1 if message.kept else width
    values = _numbers(message.values, n * per_row, codec, "values").reshape(n, per_row)
    if message.kept:
        values = _full_rows(values, message.classes, width)
    elif message.classes:
        raise ValueError("the message has classes, but kept is 0: classes must then be empty")
    weights = _numbers(message.weights, n, codec, "weights") if message.weights else np.ones(n, np.float32)
    return Knowledge(ids, values, weights)


def _n_top_values(values: Float32, codec: Codec) -> int:
    """Return how many values of each row to send if its other values are equal; 0 if sending all is not longer."""
    n, width = values.shape
    if not 0 < values.size <= _MAX_EXPANDED:
        return 0
    n_top = max(1, int((values != values.min(1, keepdims=True)).sum(1).max()))
    sparse = codec.size(n * (n_top + 1)) + labels_size(n * n_top, width)
    return n_top if n_top < width and sparse < codec.size(values.size) else 0


def _top_values(values: Float32, n_top: int) -> tuple[Float32, Int64]:
    """Return the largest values of each row, and their classes. All other values of a row are equal.

    Args:
        values: float32 [n, width].
        n_top: number of largest values per row.

    Returns:
        float32 [n, n_top + 1], the last column of which is the repeated value; the classes of the others, int64
        [n * n_top], ascending in each row.
    """
    classes: Int64 = np.sort(np.argsort(-values, axis=1, kind="stable")[:, :n_top], axis=1)
    sent = np.concatenate([np.take_along_axis(values, classes, 1), values.min(1, keepdims=True)], axis=1)
    return sent, classes.reshape(-1)


def _full_rows(sent: Float32, packed_classes: bytes, width: int) -> Float32:
    """Return the rows, float32 [n, width], that `_top_values` shortened."""
    n, n_top = len(sent), sent.shape[1] - 1
    _check_size(n, width)
    if n_top >= width:
        raise ValueError(f"kept is {n_top}: it must be less than the {width} values of a row")
    classes = unpack_labels(packed_classes, n * n_top, width).reshape(n, n_top)
    if (np.diff(classes, axis=1) <= 0).any():
        raise ValueError("the classes of a row must ascend")
    rows = np.repeat(sent[:, -1:], width, axis=1)
    np.put_along_axis(rows, classes, sent[:, :-1], axis=1)
    return rows


def _check_size(n: int, width: int) -> None:
    if n * width > _MAX_EXPANDED:
        raise ValueError(f"{n} rows of {width} classes exceed the limit of {_MAX_EXPANDED} numbers in shortened rows")


def _is_labels(knowledge: Knowledge) -> bool:
    values = knowledge.values
    if not 0 < values.size <= _MAX_EXPANDED or values[0].max() != 1 or (knowledge.weights != 1).any():
        return False
    return bool(((values == 1).sum(1) == 1).all() and ((values == 0).sum(1) == values.shape[1] - 1).all())


def _gaps(ids: Int64) -> list[int]:
    return [int(gap) for gap in np.diff(ids, prepend=0)]


def _ids(gaps: Sequence[int]) -> Int64:
    if any(gap < 1 for gap in gaps[1:]):
        raise ValueError("the row ids of a plan must be unique and ascending")
    ids: Int64 = np.cumsum(np.array(gaps, np.int64))
    return ids


def _numbers(data: bytes, count: int, codec: Codec, name: str) -> Float32:
    if len(data) != codec.size(count):
        raise ValueError(f"{name} has {len(data)} bytes where {codec.size(count)} are expected")
    return codec.decode(data, count)
