"""Encoding of messages as bytes: one protobuf (proto/edgefd_proto/edgefd.proto) for all transports and simulations."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from edgefd_proto import edgefd_pb2 as pb
from google.protobuf.message import Message

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.changes import Changes, applied, digest_of
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.learners.batches import one_hot
from edgefd.wire.codecs import NUMBER_CODECS, NumberCodec, labels_size, pack_labels, unpack_labels
from edgefd.wire.expected import Expected, ExpectedReport, UnexpectedContent, UnknownBase, largest_plan
from edgefd.wire.simplex import SIMPLEX15, CodedRows, decode_rows, encode_rows

AnyMessage = TypeVar("AnyMessage", bound=Message)

CODEC_NUMBERS = {
    "float32": pb.CODEC_FLOAT32,
    "float16": pb.CODEC_FLOAT16,
    "uint8": pb.CODEC_UINT8,
    "uint4": pb.CODEC_UINT4,
    "simplex15": pb.CODEC_SIMPLEX15,
    "int8": pb.CODEC_INT8,
}
"""number of each codec in a message"""


def encode(knowledge: Knowledge, codec: str, changes: Changes | None = None) -> bytes:
    """Return knowledge as a serialised `edgefd.v1.Knowledge`.

    If `changes` lead to the same knowledge and take fewer bytes, they are sent in its place.

    The codec simplex15 encodes ids, values and weights together (`edgefd.wire.simplex`). All others encode numbers:
    rows that are all one-hot and have weight 1 are sent as labels; nothing is lost. If all but a few values of each row
    are equal, as the defence top-k makes them, each row is sent as these few values, their classes and the repeated
    value once, where this is shorter; nothing is lost either. A weight that is too small for the codec is written as
    the smallest number that the codec has, so that an accepted row stays accepted.
    """
    return _shorter_message(knowledge, codec, changes).SerializeToString()


def rounded(knowledge: Knowledge, codec: str) -> Knowledge:
    """Return knowledge as a receiver decodes it."""
    return _rows_of(_knowledge_message(knowledge, codec), codec)


def decode(data: bytes, expected: Expected) -> Knowledge:
    """Return the knowledge in a serialised `edgefd.v1.Knowledge`.

    Raises:
        UnexpectedContent: if the receiver expects other knowledge. No memory was allocated for its rows.
        UnknownBase: if the message holds changes of knowledge that the receiver does not hold.
        ValueError: if the bytes are not a well-formed `edgefd.v1.Knowledge`.
    """
    return _knowledge_of(_bounded(pb.Knowledge(), data, expected.largest), expected)


def encode_plan(plan: RoundPlan) -> bytes:
    """Return a plan as a serialised `edgefd.v1.RoundPlan`."""
    message = pb.RoundPlan(round=plan.round, id_gaps=_gaps(plan.ids), evaluate=plan.evaluate, closing=plan.closing)
    return message.SerializeToString()


def decode_plan(data: bytes, n_proxy: int) -> RoundPlan:
    """Return the plan in a serialised `edgefd.v1.RoundPlan`.

    Raises:
        UnexpectedContent: if it queries a row that a proxy set of `n_proxy` rows does not have.
        ValueError: if the bytes are not a well-formed `edgefd.v1.RoundPlan`.
    """
    message = _bounded(pb.RoundPlan(), data, largest_plan(n_proxy))
    if len(message.id_gaps) > n_proxy:
        raise UnexpectedContent(f"the plan queries {len(message.id_gaps)} rows, but the proxy set has {n_proxy}")
    ids = np.cumsum(np.array(message.id_gaps, np.int64))
    if (np.diff(ids) < 1).any():
        raise ValueError("the row ids of a plan must be unique and ascending")
    if len(ids) and ids[-1] >= n_proxy:
        raise UnexpectedContent(f"the plan queries proxy row {ids[-1]}, but the proxy set has {n_proxy} rows")
    return RoundPlan(message.round, ids, message.evaluate, message.closing)


def encode_report(report: Report, codec: str, changes: Changes | None = None) -> bytes:
    """Return a report as a serialised `edgefd.v1.Report`. Equal reports have equal bytes in every process.

    The knowledge is encoded as by `encode`.
    """
    message = pb.Report(
        client=report.client,
        round=report.round,
        knowledge=_shorter_message(report.knowledge, codec, changes),
        metrics=report.metrics,
    )
    return message.SerializeToString(deterministic=True)


def decode_report(data: bytes, expected: ExpectedReport) -> Report:
    """Return the report in a serialised `edgefd.v1.Report`.

    Raises:
        UnexpectedContent: if the receiver expects another report. No memory was allocated for its rows.
        ValueError: if the bytes are not a well-formed `edgefd.v1.Report`.
    """
    message = _bounded(pb.Report(), data, expected.largest)
    if not message.HasField("knowledge"):
        raise ValueError("the report has no knowledge")
    if message.round != expected.round:
        raise UnexpectedContent(f"the report is for round {message.round}, not for round {expected.round}")
    expected.check_metrics(message.metrics)
    knowledge = _knowledge_of(message.knowledge, expected.knowledge)
    return Report(message.client, message.round, knowledge, dict(message.metrics), message.knowledge.ByteSize())


def _bounded(message: AnyMessage, data: bytes, largest: int) -> AnyMessage:
    """Fill a message from bytes that are not parsed if they are more than the largest honest message has."""
    if len(data) > largest:
        raise UnexpectedContent(f"the message has {len(data)} bytes; the limit is {largest}")
    return parsed(message, data)


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


def n_rows(message: pb.Knowledge) -> int:
    """Return the number of rows that a message claims to have."""
    return int(message.rows) if message.codec == pb.CODEC_SIMPLEX15 else len(message.id_gaps)


def _shorter_message(knowledge: Knowledge, codec: str, changes: Changes | None) -> pb.Knowledge:
    message = _knowledge_message(knowledge, codec)
    if changes is None:
        return message
    changed = _knowledge_message(changes.rows, codec)
    changed.base = changes.base
    changed.removed_gaps.extend(_gaps(changes.removed))
    return min(changed, message, key=lambda each: each.ByteSize())


def _knowledge_message(knowledge: Knowledge, codec: str) -> pb.Knowledge:
    if codec == SIMPLEX15.name:
        coded = encode_rows(knowledge)
        return pb.Knowledge(
            width=knowledge.width,
            codec=pb.CODEC_SIMPLEX15,
            values=coded.data,
            rows=coded.rows,
            runs=coded.runs,
            weighted=coded.weighted,
        )
    if _is_labels(knowledge):
        labels = pack_labels(knowledge.values.argmax(1), knowledge.width)
        return pb.Knowledge(id_gaps=_gaps(knowledge.ids), width=knowledge.width, codec=pb.CODEC_LABEL, values=labels)
    number = NUMBER_CODECS[codec]
    weights = np.maximum(knowledge.weights, np.float32(number.of_weights.smallest))
    n_top = _n_top_values(knowledge.values, number)
    values, classes = _top_values(knowledge.values, n_top) if n_top else (knowledge.values, None)
    return pb.Knowledge(
        id_gaps=_gaps(knowledge.ids),
        width=knowledge.width,
        codec=CODEC_NUMBERS[codec],
        values=number.encode(values),
        weights=b"" if (weights == 1).all() else number.of_weights.encode(weights),
        kept=n_top,
        classes=b"" if classes is None else pack_labels(classes, knowledge.width),
    )


def _knowledge_of(message: pb.Knowledge, expected: Expected) -> Knowledge:
    expected.check_shape(n_rows(message), message.width)
    held = _held_knowledge(message, expected)
    knowledge = _rows_of(message, expected.codec)
    expected.check_ids(knowledge.ids)
    expected.check_values(knowledge.values)
    if held is not None:
        removed: Int64 = np.cumsum(np.array(message.removed_gaps, np.int64))
        if (np.diff(removed) < 1).any():
            raise ValueError("the ids of removed rows must be unique and ascending")
        knowledge = applied(held, Changes(message.base, knowledge, removed))
        expected.check_ids(knowledge.ids)
    expected.check_complete(len(knowledge))
    return knowledge


def _held_knowledge(message: pb.Knowledge, expected: Expected) -> Knowledge | None:
    """Return the knowledge that a message changes; None if the message holds all rows.

    Raises:
        UnknownBase: if the receiver does not hold it.
        UnexpectedContent: if more rows are removed than there can be.
    """
    if not message.base:
        if message.removed_gaps:
            raise ValueError("the message removes rows, but does not say of which knowledge")
        return None
    if expected.held is None or message.base != digest_of(expected.held):
        raise UnknownBase("the message holds changes of knowledge that the receiver does not hold: send all rows")
    if (n := len(message.removed_gaps)) > len(expected.ids):
        raise UnexpectedContent(f"the message removes {n} rows, but at most {len(expected.ids)} are expected")
    return expected.held


def _rows_of(message: pb.Knowledge, codec: str) -> Knowledge:
    """Return the rows of a message whose number of rows and values is known to be right."""
    return _coded_knowledge(message) if codec == SIMPLEX15.name else _listed_knowledge(message, codec)


def _coded_knowledge(message: pb.Knowledge) -> Knowledge:
    _check_codec(message, SIMPLEX15.name)
    if message.id_gaps or message.weights or message.kept or message.classes:
        raise ValueError("simplex15 has ids and weights in values: id_gaps, weights, kept and classes must be empty")
    return decode_rows(CodedRows(message.rows, message.runs, message.weighted, message.values), message.width)


def _listed_knowledge(message: pb.Knowledge, name: str) -> Knowledge:
    """Return knowledge whose ids, values and weights are fields of their own."""
    n, width = len(message.id_gaps), message.width
    is_labels = _check_lengths(message, name)
    codec = NUMBER_CODECS[name]
    ids: Int64 = np.cumsum(np.array(message.id_gaps, np.int64))
    if is_labels:
        values = one_hot(unpack_labels(message.values, n, width), width)
    elif message.kept:
        sent = codec.decode(message.values, n * (message.kept + 1)).reshape(n, message.kept + 1)
        values = _full_rows(sent, message.classes, width)
    else:
        values = codec.decode(message.values, n * width).reshape(n, width)
    weights = codec.of_weights.decode(message.weights, n) if message.weights else np.ones(n, np.float32)
    return Knowledge(ids, values, weights)


def _check_lengths(message: pb.Knowledge, codec: str) -> bool:
    """Check the codec and the lengths of all fields, and return whether the rows are labels. Nothing is decoded yet.

    Raises:
        UnexpectedContent: for another codec.
        ValueError: if a length does not fit.
    """
    n, width, kept = len(message.id_gaps), message.width, message.kept
    if message.codec == pb.CODEC_LABEL:
        if message.weights or kept or message.classes:
            raise ValueError("labels have weight 1: weights, kept and classes must be empty")
        _check_length("labels", message.values, labels_size(n, width))
        return True
    _check_codec(message, codec)
    if kept and kept >= width:
        raise ValueError(f"kept is {kept}: it must be less than the {width} values of a row")
    if message.classes and not kept:
        raise ValueError("the message has classes, but kept is 0: classes must then be empty")
    _check_length("values", message.values, NUMBER_CODECS[codec].size(n * (kept + 1 if kept else width)))
    _check_length("classes", message.classes, labels_size(n * kept, width))
    if message.weights:
        _check_length("weights", message.weights, NUMBER_CODECS[codec].of_weights.size(n))
    return False


def _check_codec(message: pb.Knowledge, codec: str) -> None:
    if message.codec != CODEC_NUMBERS[codec]:
        raise UnexpectedContent(
            f"the message has codec {message.codec}, but {codec} ({CODEC_NUMBERS[codec]}) is expected"
        )


def _check_length(name: str, data: bytes, size: int) -> None:
    if len(data) != size:
        raise ValueError(f"{name} has {len(data)} bytes where {size} are expected")


def _n_top_values(values: Float32, codec: NumberCodec) -> int:
    """Return how many values of each row to send if its other values are equal; 0 if sending all is not longer.

    It is 0 for a codec with scales, whose rounding depends on which values are sent.
    """
    n, width = values.shape
    if not values.size or codec.block is not None:
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
    classes = unpack_labels(packed_classes, n * n_top, width).reshape(n, n_top)
    if (np.diff(classes, axis=1) <= 0).any():
        raise ValueError("the classes of a row must ascend")
    rows = np.repeat(sent[:, -1:], width, axis=1)
    np.put_along_axis(rows, classes, sent[:, :-1], axis=1)
    return rows


def _is_labels(knowledge: Knowledge) -> bool:
    values = knowledge.values
    if not values.size or values[0].max() != 1 or (knowledge.weights != 1).any():
        return False
    return bool(((values == 1).sum(1) == 1).all() and ((values == 0).sum(1) == values.shape[1] - 1).all())


def _gaps(ids: Int64) -> list[int]:
    return [int(gap) for gap in np.diff(ids, prepend=0)]
