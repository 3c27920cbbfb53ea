"""What both ends of the device link (`edgefd.v1.DeviceLink`) hold to."""

from __future__ import annotations

import json
from typing import Any

from edgefd_proto import edgefd_pb2 as pb

from edgefd.federation.terms import FederationTerms

PROTOCOL = 1
REASON = "edgefd-reason"
"""trailing metadata of a refusal: one word that a program can act on"""
CHUNK = 32 * 2**10  # small: what a connection that is cut has not delivered whole must come again
PIECE = 256 * 2**10
"""bytes of samples in one call, unless one sample is larger"""
HOLD = 30.0
"""seconds that the coordinator holds NextTask when there is nothing to do"""


def rows_a_piece(row: int) -> int:
    """How many samples of so many bytes go into one call of ContributeProxy.

    >>> rows_a_piece(784), rows_a_piece(10**6)
    (334, 1)
    """
    return max(1, PIECE // row)


def terms_message(terms: FederationTerms) -> pb.Terms:
    """Terms as they travel."""
    return pb.Terms(
        method=terms.method,
        method_config=json.dumps(terms.method_config),
        codec=terms.codec,
        seed=terms.seed,
        n_classes=terms.n_classes,
        proxy_sha256=terms.proxy_sha256,
        defence="" if terms.defence == {"name": "none"} else json.dumps(terms.defence),
    )


def read_terms(message: pb.Terms) -> FederationTerms:
    """Terms from the message.

    Raises:
        ValueError: if the settings, or the defence, are no JSON object.
    """
    settings = _object("method_config", message.method_config)
    defence = _object("defence", message.defence) if message.defence else {"name": "none"}
    return FederationTerms(
        message.method, settings, message.codec, message.seed, message.n_classes, message.proxy_sha256, defence
    )


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"terms: {name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"terms: {name} is not a JSON object")
    return found


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT stays on this machine.

    >>> is_loopback("127.0.0.1:50051"), is_loopback("localhost:1"), is_loopback("[::1]:1"), is_loopback("0.0.0.0:1")
    (True, True, True, False)
    """
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())
