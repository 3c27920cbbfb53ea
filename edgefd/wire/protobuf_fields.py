"""A strict reader of protobuf messages: a field that is unknown, repeated or of another type is an error.

A protobuf library merges a field that occurs twice, and ignores fields that it does not know. A file could therefore
mean one thing to a check and another thing to the program behind it. Here a message has one meaning or none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_TEXT = 1000
"""largest size in bytes of a text, such as a name"""
_LARGEST = 1 << 64
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = {"int": _VARINT, "float": _FIXED32}


@dataclass(frozen=True)
class Field:
    """A field of a message: its name, the type of its value, and whether it may occur more than once."""

    name: str
    kind: str | Message
    """int, float, text, bytes, or a message"""
    repeated: bool = False


@dataclass(frozen=True)
class Message:
    """A type of message: the fields that it may have, by number. `refused` names others, for the text of an error."""

    name: str
    fields: Mapping[int, Field]
    refused: Mapping[int, str] = field(default_factory=dict)


def read_message(data: memoryview, message: Message) -> dict[str, Any]:
    """Return the values of the fields that occur, by name: a list for a repeated field. Bytes are views of `data`.

    Raises:
        ValueError: if the bytes are not exactly one such message.
    """
    values: dict[str, Any] = {}
    for number, wire_type, raw in _fields(data):
        if number not in message.fields:
            what = message.refused.get(number, f"field {number}")
            raise ValueError(f"its {message.name} has {what}, which no graph of edgefd has")
        known = message.fields[number]
        if known.repeated and known.kind == "int" and wire_type == _LENGTH:  # one field may hold many integers
            values.setdefault(known.name, []).extend(_packed(raw))
            continue
        value = _value(known, wire_type, raw)
        if known.repeated:
            values.setdefault(known.name, []).append(value)
        elif known.name in values:
            raise ValueError(f"its {message.name} has two fields {known.name}")
        else:
            values[known.name] = value
    return values


def _value(known: Field, wire_type: int, raw: Any) -> Any:
    kind = known.kind
    expected = _LENGTH if isinstance(kind, Message) else _WIRE_TYPES.get(kind, _LENGTH)
    if wire_type != expected:
        raise ValueError(f"the field {known.name} has the wire type {wire_type} in place of {expected}")
    if isinstance(kind, Message):
        return read_message(raw, kind)
    if kind == "text":
        if len(raw) > MAX_TEXT or 0 in raw:
            raise ValueError(f"the text {known.name} is longer than {MAX_TEXT} bytes, or holds a zero byte")
        return str(raw, "utf-8")
    if kind == "float":
        return struct.unpack("<f", raw)[0]
    return raw


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield (number, wire type, value) of each field: an int for an integer, a view of the bytes for all others."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield number, wire_type, value - _LARGEST if value >= _LARGEST >> 1 else value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type)
        if wire_type == _LENGTH:
            size, position = _varint(data, position)
        if size is None:
            raise ValueError(f"a field has the unknown wire type {wire_type}")
        if size > len(data) - position:
            raise ValueError("the file ends within a field")
        yield number, wire_type, data[position : position + size]
        position += size


def _packed(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value - _LARGEST if value >= _LARGEST >> 1 else value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return an unsigned integer of at most 64 bits, and the position after it."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("the file ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
        if shift >= 70:
            raise ValueError("a number is longer than 10 bytes")
    if value >= _LARGEST or (byte == 0 and shift > 7):
        raise ValueError("a number has more than 64 bits, or is written with more bytes than it needs")
    return value, position
