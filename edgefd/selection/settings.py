"""`Selection`: the settings of the choice of proxy rows."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.core.errors import UserError, hint

SERVER_RULES = ("random", "pcoreset", "ddk")
"""Rules of the server: it queries fewer rows, so fewer bytes are sent in both directions."""
CLIENT_RULES = ("rad", "llkd", "adaspec", "kd3")
"""Rules of the client: all rows are queried and sent, but each client distils only some rows of the teacher."""


@dataclass(frozen=True)
class Selection:
    """Choice of the rows to query or to distil. The `selection` section of a config."""

    name: str = "all"
    """all rows; or a rule of the server: random, pcoreset, ddk; or of each client: rad, llkd, adaspec, kd3"""
    budget: float = 1.0
    """rows per round: a share of all rows up to 1, and a number of rows above 1"""
    assumed_teacher_error: float = 0.1
    """rad: assumed share of rows on which the teacher is wrong"""
    uniform_share: float = 0.5
    """ddk: share of the budget that is divided equally among the classes, whatever their divergence"""

    def __post_init__(self) -> None:
        names = ("all", *SERVER_RULES, *CLIENT_RULES)
        if self.name not in names:
            raise ValueError(f"unknown selection {self.name!r}: {hint(self.name, names)}")
        if not 0 < self.budget <= 2**31 or (self.budget > 1 and self.budget != int(self.budget)):
            raise ValueError("budget must be a share in (0, 1] or a whole number of rows above 1")
        if self.name == "all" and self.budget != 1:
            raise ValueError(f"budget needs a name: {', '.join(names[1:])}")
        if self.budget == 1 and self.name not in ("all", "llkd"):
            raise ValueError(
                f"{self.name} needs a budget below 1, or a number of rows above 1: a budget of 1 is all rows"
            )
        if not 0 <= self.assumed_teacher_error < 1:
            raise ValueError("assumed_teacher_error must be at least 0 and below 1")
        if not 0 <= self.uniform_share <= 1:
            raise ValueError("uniform_share must be in [0, 1]")
        if self.assumed_teacher_error != Selection.assumed_teacher_error and self.name != "rad":
            raise ValueError("assumed_teacher_error is for name=rad")
        if self.uniform_share != Selection.uniform_share and self.name != "ddk":
            raise ValueError("uniform_share is for name=ddk")


ALL_ROWS = Selection()
"""Selection of every row: all rows are queried and distilled."""


def n_rows(budget: float, n: int) -> int:
    """Return the number of rows that a budget allows out of n: at least 1 if n > 0, and at most n.

    >>> n_rows(0.25, 10), n_rows(4, 10), n_rows(4, 3), n_rows(0.01, 3)
    (2, 4, 3, 1)
    """
    return min(n, max(1, round(budget * n) if budget <= 1 else int(budget)))


def check_budget(selection: Selection, n_proxy: int) -> None:
    """Check that the proxy set has as many rows as the budget needs.

    Raises:
        UserError: if it has fewer.
    """
    if selection.budget > 1 and selection.budget > n_proxy:
        raise UserError(f"selection.budget is {int(selection.budget)} rows, but the proxy set has {n_proxy}: lower it")
