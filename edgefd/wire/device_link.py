"""Constants and conversions that both ends of the device link (`edgefd.v1.DeviceLink`) share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.json_files import parse_json
from edgefd.federation.terms import FederationTerms, parse_terms
from edgefd.wire.terms import received_terms

PROTOCOL = 2
"""version of the device link; 1 had the training in every plan"""
REASON = "edgefd-reason"
"""key of the trailing metadata of a refusal; its value is one word that a program can act on"""
CHUNK = 32 * 2**10
"""bytes of a bundle's file in one message; small, because a message that is interrupted must be sent again whole"""
PIECE = 256 * 2**10
"""largest number of bytes of samples in one call, unless one sample is larger"""
HOLD = 30.0
"""seconds that the coordinator holds a NextTask call when there is no task"""

_DECIDED: tuple[Literal["training", "selection", "distillation"], ...] = ("training", "selection", "distillation")
_SETTINGS = ("method_config", "defence", *_DECIDED)
_DEFAULTS = {"defence": {"name": "none"}, "selection": {"name": "all"}, "distillation": {"loss": "kl"}}
"""settings that an empty text stands for"""


def rows_a_piece(row: int) -> int:
    """Return how many samples of `row` bytes each fit into one call of ContributeProxy.

    >>> rows_a_piece(784), rows_a_piece(10**6)
    (334, 1)
    """
    return max(1, PIECE // row)


def terms_message(terms: FederationTerms) -> pb.Terms:
    """Return the terms as the message that carries them."""
    fields: dict[str, Any] = asdict(terms)
    for name in _SETTINGS:
        fields[name] = "" if fields[name] == _DEFAULTS.get(name) else json.dumps(fields[name])
    return pb.Terms(**fields)


def identity_message(terms: FederationTerms) -> pb.Terms:
    """Return only the fields that identify the federation. The coordinator alone decides on the others."""
    message = terms_message(terms)
    for name in _DECIDED:
        message.ClearField(name)
    return message


def read_terms(message: pb.Terms) -> FederationTerms:
    """Return the terms that a coordinator sends.

    Raises:
        ValueError: if settings are not a JSON object, or are out of range, or there is no training.
    """
    return _parsed(_fields(message), received_terms)


def read_identity(message: pb.Terms) -> FederationTerms:
    """Return the terms that a device sends: only the fields that identify the federation are read.

    Raises:
        ValueError: if settings are not a JSON object.
    """
    identity = pb.Terms()
    identity.CopyFrom(message)
    for name in _DECIDED:
        identity.ClearField(name)
    return _parsed(_fields(identity) | {"training": {}}, parse_terms)


def _fields(message: pb.Terms) -> dict[str, Any]:
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(FederationTerms)}
    if not message.HasField("changes_above"):
        fields["changes_above"] = None
    for name in _SETTINGS:
        if text := fields.pop(name):
            fields[name] = _object(name, text)
        elif name != "training":  # it has no default: a device must not guess how the others train
            fields[name] = _DEFAULTS.get(name, {})
    return fields


def _parsed(fields: dict[str, Any], parse: Callable[[dict[str, Any]], FederationTerms]) -> FederationTerms:
    try:
        return parse(fields)
    except TypeError as error:
        raise ValueError(f"terms: {type(error).__name__}: {error}") from error


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"terms: {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"terms: {name} is not a JSON object")
    return value
