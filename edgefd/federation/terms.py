"""`FederationTerms`: the settings in which coordinator and devices must agree before their reports are averaged."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class FederationTerms:
    """Constants of a federation. A device reads them from its bundle, the coordinator from its config."""

    method: str
    method_config: dict[str, Any]
    codec: str
    seed: int
    n_classes: int
    proxy_sha256: str
    """SHA-256 of the scaled proxy samples"""
    defence: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    """defence that clients apply to their knowledge before they send it, with its settings"""

    def differences(self, other: FederationTerms) -> list[str]:
        """Return the names of the fields that differ.

        >>> a = FederationTerms("fedmd", {}, "float16", 0, 10, "")
        >>> a.differences(FederationTerms("fedmd", {}, "uint8", 0, 10, ""))
        ['codec']
        """
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if json.dumps(mine[name]) != json.dumps(theirs[name])]


def parse_terms(fields: dict[str, Any]) -> FederationTerms:
    """Parse the terms from plain JSON values.

    Raises:
        KeyError, TypeError, ValueError: if a field is missing or of another type.
    """
    return FederationTerms(
        method=str(fields["method"]),
        method_config=dict(fields["method_config"]),
        codec=str(fields["codec"]),
        seed=int(fields["seed"]),
        n_classes=int(fields["n_classes"]),
        proxy_sha256=str(fields["proxy_sha256"]),
        **({"defence": dict(fields["defence"])} if "defence" in fields else {}),  # older bundles have no defence
    )


@dataclass(frozen=True)
class FederationInfo:
    """Contents of federation.json: the run, its number of clients and its terms."""

    run: str
    """name of the run"""
    n_clients: int
    """number of clients of the federation"""
    terms: FederationTerms
    """constants that coordinator and devices must share"""
