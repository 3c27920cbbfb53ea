"""`RoundPlan`: the instructions for one round."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.core.arrays import Int64


@dataclass(frozen=True, eq=False)
class RoundPlan:
    """Instructions of the server to the clients for one round.

    The constants of a run are in `edgefd.federation.terms.FederationTerms`. Only the server knows which clients are
    sampled: a device learns only whether it is sampled itself.
    """

    round: int
    """0, 1, ..."""
    ids: Int64
    """queried proxy rows, ascending"""
    evaluate: bool = True
    """whether clients measure their accuracy in this round (they always do in the closing one)"""
    closing: bool = False
    """whether this is the closing round, in which clients only distil and evaluate, and report metrics alone"""
