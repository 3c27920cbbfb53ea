"""`FederationTerms`: what coordinator and devices must agree on, or their answers must not be averaged."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class FederationTerms:
    """Of a federation. A device has them from its bundle, the coordinator from its config."""

    method: str
    method_config: dict[str, Any]
    codec: str
    seed: int
    n_classes: int
    proxy_sha256: str
    """of the scaled proxy samples"""
    defence: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    """what clients do to their answers before they leave, with its settings"""

    def differences(self, other: FederationTerms) -> list[str]:
        """Names of what differs.

        >>> a = Terms("fedmd", {}, "float16", 0, 10, "")
        >>> a.differences(Terms("fedmd", {}, "uint8", 0, 10, ""))
        ['codec']
        """
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if json.dumps(mine[name]) != json.dumps(theirs[name])]


def parse_terms(fields: dict[str, Any]) -> FederationTerms:
    """Terms from plain JSON.

    Raises:
        KeyError, TypeError, ValueError: if something is missing or of another kind.
    """
    return FederationTerms(
        method=str(fields["method"]),
        method_config=dict(fields["method_config"]),
        codec=str(fields["codec"]),
        seed=int(fields["seed"]),
        n_classes=int(fields["n_classes"]),
        proxy_sha256=str(fields["proxy_sha256"]),
        **({"defence": dict(fields["defence"])} if "defence" in fields else {}),  # bundles from before there were any
    )


@dataclass(frozen=True)
class FederationInfo:
    """federation.json."""

    run: str
    n_clients: int
    terms: FederationTerms
