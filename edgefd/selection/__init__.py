"""Selection of the proxy rows that a server queries and that a client distils: docs/guides/selection-and-losses.md.

Each file whose name does not begin with `_` defines one `RULE`, a subclass of `Selection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgefd.core.errors import UserError, hint
from edgefd.core.families import members
from edgefd.core.settings import settings_of
from edgefd.selection._rule import Candidates, Selection, SelectionState

__all__ = ["Candidates", "Selection", "SelectionState", "selection_of", "selection_rules"]


def selection_rules() -> dict[str, type[Selection]]:
    """Return the rules by name; `all` selects all rows."""
    return members(__name__, "RULE")


def selection_of(settings: Mapping[str, Any]) -> Selection:
    """Return the rule for plain values, as a device reads them from the terms of its federation.

    Raises:
        UserError: for an unknown rule or setting, or a value of another type or out of range.

    >>> selection_of({"name": "random", "budget": 0.5}).budget
    0.5
    """
    name = settings.get("name")
    rules = selection_rules()
    if name not in rules:
        raise UserError(f"unknown selection {name!r}: {hint(str(name), rules)}")
    rule: Selection = settings_of(f"selection {name}", rules[name], settings)
    return rule
