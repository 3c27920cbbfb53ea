"""`Knowledge` as bytes: one protobuf (proto/edgefd_proto/edgefd.proto) for every transport, also the simulator's."""

from __future__ import annotations

import numpy as np
from edgefd_proto import edgefd_pb2 as pb

from edgefd.codecs import CODECS
from edgefd.knowledge import Knowledge

_TO_PB = {"float32": pb.CODEC_FLOAT32, "float16": pb.CODEC_FLOAT16, "uint8": pb.CODEC_UINT8}
_FROM_PB = {v: k for k, v in _TO_PB.items()}


def encode(knowledge: Knowledge, codec: str) -> bytes:
    """Knowledge as a serialised `edgefd.v1.Knowledge`.

    Weights too small for the codec are written as the least it can, so that a claimed row stays claimed.
    """
    c = CODECS[codec]
    weights = np.maximum(knowledge.weights, np.float32(c.smallest))
    message = pb.Knowledge(
        id_gaps=np.diff(knowledge.ids, prepend=0).tolist(),
        width=knowledge.width,
        codec=_TO_PB[codec],
        values=c.encode(knowledge.values),
        weights=b"" if (weights == 1).all() else c.encode(weights),
    )
    return message.SerializeToString()


def decode(data: bytes) -> Knowledge:
    """Knowledge from its bytes.

    Raises:
        ValueError: if they are not a well-formed `edgefd.v1.Knowledge`.
    """
    message = pb.Knowledge()
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError is not a stable import across its back ends
        raise ValueError(f"not an edgefd.v1.Knowledge: {error}") from error
    if message.codec not in _FROM_PB:
        raise ValueError(f"unknown codec {message.codec}")
    c = CODECS[_FROM_PB[message.codec]]
    n, width = len(message.id_gaps), message.width
    values = _numbers(message.values, n * width, c.bytes_each, "values")
    weights = _numbers(message.weights, n, c.bytes_each, "weights") if message.weights else None
    return Knowledge(
        np.cumsum(np.array(message.id_gaps, np.int64)),
        c.decode(values).reshape(n, width),
        np.ones(n, np.float32) if weights is None else c.decode(weights),
    )


def _numbers(data: bytes, count: int, size: int, what: str) -> bytes:
    if len(data) != count * size:
        raise ValueError(f"{what} of {len(data)} bytes where {count * size} were announced")
    return data


def received(knowledge: Knowledge, codec: str) -> tuple[Knowledge, int]:
    """What arrives at the other end, and how many bytes it took."""
    data = encode(knowledge, codec)
    return decode(data), len(data)
