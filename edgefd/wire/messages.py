"""Messages as bytes: one protobuf (proto/edgefd_proto/edgefd.proto) for every transport, also the simulator's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from edgefd_proto import edgefd_pb2 as pb
from google.protobuf.message import Message

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan, Training
from edgefd.federation.report import Report
from edgefd.learners.batches import one_hot
from edgefd.learners.distillation_loss import PLAIN, Distillation
from edgefd.selection.settings import ALL_ROWS, Selection
from edgefd.wire.codecs import CODECS, Codec, labels_size, pack_labels, unpack_labels

AnyMessage = TypeVar("AnyMessage", bound=Message)

_TO_PB = {
    "float32": pb.CODEC_FLOAT32,
    "float16": pb.CODEC_FLOAT16,
    "uint8": pb.CODEC_UINT8,
    "uint4": pb.CODEC_UINT4,
}
_FROM_PB = {v: k for k, v in _TO_PB.items()}
_MOST_LABELLED = 2**26
"""numbers that labels, or rows of which few values are told, may stand for: few bytes must not unpack to any size"""


_WIRE_NAMES = {
    "augment_shift": "shift",
    "private_rows_per_batch": "private_rows",
    "assumed_teacher_error": "wrong",
    "uniform_share": "even",
}
"""fields of settings whose name on the wire is another one: names in `edgefd.v1` are released and never change"""


def encode(knowledge: Knowledge, codec: str) -> bytes:
    """Knowledge as a serialised `edgefd.v1.Knowledge`.

    Rows that are all one-hot and of weight 1 travel as labels, whatever the codec: nothing is lost. Rows in which all
    but few values are one and the same, as top-k leaves them, travel as those few, their classes, and the rest once a
    row, where that is shorter: nothing is lost either. Weights too small for the codec are written as the least it can,
    so that a claimed row stays claimed.
    """
    return _knowledge_message(knowledge, codec).SerializeToString()


def decode(data: bytes) -> Knowledge:
    """Knowledge from its bytes.

    Raises:
        ValueError: if they are not a well-formed `edgefd.v1.Knowledge`.
    """
    return _knowledge_of(parsed(pb.Knowledge(), data))


def encode_plan(plan: RoundPlan) -> bytes:
    """A plan as a serialised `edgefd.v1.RoundPlan`."""
    message = pb.RoundPlan(
        seed=plan.seed,
        round=plan.round,
        id_gaps=_gaps(plan.ids),
        training=pb.Training(**_wire_fields(plan.training)),
        evaluate=plan.evaluate,
        selection=None if plan.selection == ALL_ROWS else pb.Selection(**_wire_fields(plan.selection)),
        distillation=None if plan.distillation == PLAIN else pb.Distillation(**_wire_fields(plan.distillation)),
    )
    return message.SerializeToString()


def decode_plan(data: bytes) -> RoundPlan:
    """A plan from its bytes.

    Raises:
        ValueError: if they are not a well-formed `edgefd.v1.RoundPlan`.
    """
    message = parsed(pb.RoundPlan(), data)
    if not message.HasField("training"):
        raise ValueError("plan without training")
    settings = _fields(message.training, Training)
    if settings["optimizer"] not in ("sgd", "adam"):
        raise ValueError(f"unknown optimizer {settings['optimizer']!r}")
    if not (math.isfinite(settings["lr"]) and math.isfinite(settings["final_lr"])):
        raise ValueError("learning rates must be finite")
    return RoundPlan(
        message.seed,
        message.round,
        _ids(message.id_gaps),
        Training(**settings),
        message.evaluate,
        selection=Selection(**_fields(message.selection, Selection)) if message.HasField("selection") else ALL_ROWS,
        distillation=(
            Distillation(**_fields(message.distillation, Distillation)) if message.HasField("distillation") else PLAIN
        ),
    )


def _fields(message: Message, kind: type) -> dict[str, Any]:
    """Return the values of a settings dataclass, by field name, from the message that carries it."""
    return {f.name: getattr(message, _WIRE_NAMES.get(f.name, f.name)) for f in dataclasses.fields(kind)}


def _wire_fields(settings: Any) -> dict[str, Any]:
    """Return the values of a settings dataclass, by the field names of its message."""
    return {_WIRE_NAMES.get(name, name): value for name, value in dataclasses.asdict(settings).items()}


def encode_report(report: Report, codec: str) -> bytes:
    """A report as a serialised `edgefd.v1.Report`. The same report has the same bytes in any process."""
    message = pb.Report(
        client=report.client,
        round=report.round,
        knowledge=_knowledge_message(report.knowledge, codec),
        metrics=report.metrics,
    )
    return message.SerializeToString(deterministic=True)


def decode_report(data: bytes) -> Report:
    """A report from its bytes.

    Raises:
        ValueError: if they are not a well-formed `edgefd.v1.Report`.
    """
    message = parsed(pb.Report(), data)
    if not message.HasField("knowledge"):
        raise ValueError("report without knowledge")
    metrics = dict(message.metrics)
    if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise ValueError(f"metrics must be finite: {', '.join(sorted(bad))}")
    knowledge = _knowledge_of(message.knowledge)
    return Report(message.client, message.round, knowledge, metrics, message.knowledge.ByteSize())


def parsed(message: AnyMessage, data: bytes) -> AnyMessage:
    """The message, filled from bytes.

    Raises:
        ValueError: if they are none of that kind.
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
    c = CODECS[codec]
    weights = np.maximum(knowledge.weights, np.float32(c.smallest))
    kept = _kept(knowledge.values, c)
    values, classes = _top_values(knowledge.values, kept) if kept else (knowledge.values, None)
    return pb.Knowledge(
        id_gaps=_gaps(knowledge.ids),
        width=knowledge.width,
        codec=_TO_PB[codec],
        values=c.encode(values),
        weights=b"" if (weights == 1).all() else c.encode(weights),
        kept=kept,
        classes=b"" if classes is None else pack_labels(classes, knowledge.width),
    )


def _knowledge_of(message: pb.Knowledge) -> Knowledge:
    ids: Int64 = np.cumsum(np.array(message.id_gaps, np.int64))
    n, width = len(ids), message.width
    if message.codec == pb.CODEC_LABEL:
        if message.weights or message.kept or message.classes:
            raise ValueError("labels have weight 1 and stand alone: weights, kept and classes must be empty")
        _check_size(n, width)
        labels = unpack_labels(message.values, n, width)
        return Knowledge(ids, one_hot(labels, width), np.ones(n, np.float32))
    if message.codec not in _FROM_PB:
        raise ValueError(f"unknown codec {message.codec}")
    c = CODECS[_FROM_PB[message.codec]]
    each = message.kept + 1 if message.kept else width
    values = _numbers(message.values, n * each, c, "values").reshape(n, each)
    if message.kept:
        values = _full(values, message.classes, width)
    elif message.classes:
        raise ValueError("classes without a number of values that are kept")
    weights = _numbers(message.weights, n, c, "weights") if message.weights else np.ones(n, np.float32)
    return Knowledge(ids, values, weights)


def _kept(values: Float32, codec: Codec) -> int:
    """How many values a row are told apart from its rest, which is one number; 0 = write all, as that is no longer."""
    n, width = values.shape
    if not 0 < values.size <= _MOST_LABELLED:
        return 0
    kept = max(1, int((values != values.min(1, keepdims=True)).sum(1).max()))
    sparse = codec.size(n * (kept + 1)) + labels_size(n * kept, width)
    return kept if kept < width and sparse < codec.size(values.size) else 0


def _top_values(values: Float32, kept: int) -> tuple[Float32, Int64]:
    """Of rows whose other values are one number: float32 [n, kept + 1], it last, and the classes of the others.

    Classes are int64 [n * kept], ascending in each row.
    """
    classes: Int64 = np.sort(np.argsort(-values, axis=1, kind="stable")[:, :kept], axis=1)
    told = np.concatenate([np.take_along_axis(values, classes, 1), values.min(1, keepdims=True)], axis=1)
    return told, classes.reshape(-1)


def _full(told: Float32, classes: bytes, width: int) -> Float32:
    """The rows, float32 [n, width], of which `_top_values` were told."""
    n, kept = len(told), told.shape[1] - 1
    _check_size(n, width)
    if kept >= width:
        raise ValueError(f"{kept} values of rows of {width} are told apart")
    where = unpack_labels(classes, n * kept, width).reshape(n, kept)
    if (np.diff(where, axis=1) <= 0).any():
        raise ValueError("classes of a row must ascend")
    out = np.repeat(told[:, -1:], width, axis=1)
    np.put_along_axis(out, where, told[:, :-1], axis=1)
    return out


def _check_size(n: int, width: int) -> None:
    if n * width > _MOST_LABELLED:
        raise ValueError(f"{n} rows of {width} classes, of which few bytes are sent, are more than is read here")


def _is_labels(knowledge: Knowledge) -> bool:
    v = knowledge.values
    if not 0 < v.size <= _MOST_LABELLED or v[0].max() != 1 or (knowledge.weights != 1).any():
        return False
    return bool(((v == 1).sum(1) == 1).all() and ((v == 0).sum(1) == v.shape[1] - 1).all())


def _gaps(ids: Int64) -> list[int]:
    return [int(gap) for gap in np.diff(ids, prepend=0)]


def _ids(gaps: Sequence[int]) -> Int64:
    if any(gap < 1 for gap in gaps[1:]):
        raise ValueError("plan ids must be unique and ascending")
    ids: Int64 = np.cumsum(np.array(gaps, np.int64))
    return ids


def _numbers(data: bytes, count: int, codec: Codec, what: str) -> Float32:
    if len(data) != codec.size(count):
        raise ValueError(f"{what} of {len(data)} bytes where {codec.size(count)} were announced")
    return codec.decode(data, count)
