"""`FederationTerms`: the constants of a federation, on which coordinator and devices agree before the first round."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from typing import Any

from edgefd.core.settings import settings_of
from edgefd.federation.training import Training
from edgefd.learners.losses import Distillation, loss_of
from edgefd.selection import Selection, selection_of

_IDENTITY = ("method", "method_config", "codec", "seed", "n_classes", "proxy_sha256", "defence", "changes_above")


@dataclass(frozen=True)
class FederationTerms:
    """Constants of a federation.

    The fields up to `defence`, and `changes_above`, identify it. They must be equal in the bundle of a device and at
    the coordinator, because otherwise knowledge of different federations would be averaged. The coordinator alone
    decides on the other fields, and sends them when a device joins.
    """

    method: str
    method_config: dict[str, Any]
    codec: str
    seed: int
    n_classes: int
    proxy_sha256: str
    """SHA-256 of the scaled proxy samples"""
    defence: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    """defence that clients apply to their knowledge before they send it, with its settings"""
    training: Training = field(default_factory=Training)
    """training protocol of the clients"""
    selection: Selection = field(default_factory=lambda: selection_of({"name": "all"}))
    """rule that chooses the rows to query or to distil"""
    distillation: Distillation = field(default_factory=lambda: loss_of({"loss": "kl"}))
    """loss of the distillation"""
    changes_above: float | None = None
    """total variation distance above which a row counts as changed, if only changed rows are sent (None = all rows)"""

    @property
    def private(self) -> bool:
        """Whether the defence has an epsilon, so that clients send nothing that its noise does not cover."""
        return "epsilon" in self.defence

    def differences(self, other: FederationTerms) -> list[str]:
        """Return the names of the identifying fields that differ.

        >>> a = FederationTerms("fedmd", {}, "float16", 0, 10, "")
        >>> a.differences(FederationTerms("fedmd", {}, "uint8", 0, 10, ""))
        ['codec']
        """
        return [name for name in _IDENTITY if getattr(self, name) != getattr(other, name)]

    def to_dict(self) -> dict[str, Any]:
        """Return the terms as plain JSON values."""
        return asdict(self)


def parse_terms(fields: dict[str, Any]) -> FederationTerms:
    """Parse the terms from plain JSON values.

    Raises:
        TypeError, ValueError: if a field is missing, of another type or out of range.
    """
    if missing := [f.name for f in fields_of(FederationTerms) if f.name not in fields]:
        raise ValueError(f"the terms have no {', '.join(missing)}: they are from another version of edgefd")
    return FederationTerms(
        method=str(fields["method"]),
        method_config=dict(fields["method_config"]),
        codec=str(fields["codec"]),
        seed=int(fields["seed"]),
        n_classes=int(fields["n_classes"]),
        proxy_sha256=str(fields["proxy_sha256"]),
        defence=dict(fields["defence"]),
        changes_above=_changes_above(fields["changes_above"]),
        training=settings_of("training", Training, dict(fields["training"])),
        selection=selection_of(dict(fields["selection"])),
        distillation=loss_of(dict(fields["distillation"])),
    )


def _changes_above(value: Any) -> float | None:
    if value is None:
        return None
    if not 0 <= float(value) < 1:
        raise ValueError(f"changes_above must be at least 0 and below 1, not {float(value):g}")
    return float(value)


@dataclass(frozen=True)
class FederationInfo:
    """Contents of federation.json: the run, its number of clients and its terms."""

    run: str
    """name of the run"""
    n_clients: int
    """number of clients of the federation"""
    terms: FederationTerms
    """constants that coordinator and devices must share"""
