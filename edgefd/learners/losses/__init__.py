"""Losses of distillation: how a client learns the rows of the teacher. Formulas: docs/guides/selection-and-losses.md.

Each file whose name does not begin with `_` defines one `LOSS`, a subclass of
`edgefd.learners.losses._loss.Distillation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgefd.core.errors import UserError, hint
from edgefd.core.families import members
from edgefd.core.settings import settings_of
from edgefd.learners.losses._logit_adjusted import class_shares, logit_adjusted
from edgefd.learners.losses._loss import Distillation, Schedule, step

__all__ = ["Distillation", "Schedule", "class_shares", "logit_adjusted", "loss_of", "losses", "step"]


def losses() -> dict[str, type[Distillation]]:
    """Return the losses by name."""
    return members(__name__, "LOSS")


def loss_of(settings: Mapping[str, Any]) -> Distillation:
    """Return the loss for plain values, as a device reads them from the terms of its federation.

    Raises:
        UserError: for an unknown loss or setting, or a value of another type or out of range.

    >>> loss_of({"loss": "taid", "start": 0.5})
    Taid(loss='taid', start=0.5)
    """
    name = settings.get("loss")
    if name not in losses():
        raise UserError(f"unknown loss {name!r}: {hint(str(name), losses())}")
    loss: Distillation = settings_of(f"distillation {name}", losses()[name], settings)
    return loss
