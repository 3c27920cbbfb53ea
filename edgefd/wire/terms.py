"""Terms as another party states them, in a manifest, in federation.json or in the answer to Join."""

from __future__ import annotations

from typing import Any

from edgefd.core.errors import hint
from edgefd.federation.terms import FederationTerms, parse_terms
from edgefd.wire.codecs import BLOCKED, CODECS

MAX_CLASSES = 2**20
"""largest number of classes: more can only be a mistake, or an attempt to use up the memory of a device"""


def received_terms(fields: dict[str, Any]) -> FederationTerms:
    """Parse the terms, and check what a receiver uses before it can compare them with anything.

    Raises:
        TypeError, ValueError: if a field is missing, of another type or out of range, or the codec is unknown.
    """
    terms = parse_terms(fields)
    if terms.codec not in CODECS:
        raise ValueError(f"unknown codec {terms.codec!r}: {hint(terms.codec[:20], CODECS)}")
    if terms.changes_above is not None and terms.codec in BLOCKED:
        raise ValueError(f"the rows of codec {terms.codec} share scales: they cannot be sent as changes")
    if not 0 <= terms.seed < 2**64 or not 1 <= terms.n_classes <= MAX_CLASSES:
        raise ValueError(
            f"seed must be from 0 to 2**64 - 1, and n_classes from 1 to {MAX_CLASSES}, "
            f"not {terms.seed:.3g} and {terms.n_classes:.3g}"
        )
    return terms
