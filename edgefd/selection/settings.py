"""What a config says about the choice of rows."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.core.errors import UserError, hint

SERVER_RULES = ("random", "pcoreset", "ddk")
"""The server asks about fewer rows, so less travels in either direction."""
CLIENT_RULES = ("rad", "llkd", "adaspec", "kd3")
"""Everything is asked and sent as ever; each client learns only some of the teacher's rows."""


@dataclass(frozen=True)
class Selection:
    """Which rows are asked about or learned. The `selection` section of a config."""

    name: str = "all"
    """all; chosen by the server: random, pcoreset, ddk; chosen by each client: rad, llkd, adaspec, kd3"""
    budget: float = 1.0
    """how many rows in each round: a share of them up to 1, above 1 a number of rows"""
    assumed_teacher_error: float = 0.1
    """rad: share of its rows that the teacher is supposed to get wrong"""
    uniform_share: float = 0.5
    """ddk: share of the budget that goes to all classes alike, however far the clients lag behind in them"""

    def __post_init__(self) -> None:
        names = ("all", *SERVER_RULES, *CLIENT_RULES)
        if self.name not in names:
            raise ValueError(f"unknown selection {self.name!r}: {hint(self.name, names)}")
        if not 0 < self.budget <= 2**31 or (self.budget > 1 and self.budget != int(self.budget)):
            raise ValueError("budget must be a share in (0, 1] or a whole number of rows above 1")
        if self.name == "all" and self.budget != 1:
            raise ValueError(f"budget needs a name: {', '.join(names[1:])}")
        if self.budget == 1 and self.name not in ("all", "llkd"):
            raise ValueError(f"{self.name} needs a budget below 1, or a number of rows above 1: 1 is all rows")
        if not 0 <= self.assumed_teacher_error < 1:
            raise ValueError("assumed_teacher_error must be at least 0 and below 1")
        if not 0 <= self.uniform_share <= 1:
            raise ValueError("uniform_share must be in [0, 1]")
        if self.assumed_teacher_error != Selection.assumed_teacher_error and self.name != "rad":
            raise ValueError("assumed_teacher_error is for name=rad")
        if self.uniform_share != Selection.uniform_share and self.name != "ddk":
            raise ValueError("uniform_share is for name=ddk")


ALL_ROWS = Selection()
"""Every row is asked about and learned."""


def n_rows(budget: float, n: int) -> int:
    """How many of n rows a budget is: at least 1 where there are any, and never more than there are.

    >>> n_rows(0.25, 10), n_rows(4, 10), n_rows(4, 3), n_rows(0.01, 3)
    (2, 4, 3, 1)
    """
    return min(n, max(1, round(budget * n) if budget <= 1 else int(budget)))


def check_budget(selection: Selection, n_proxy: int) -> None:
    """Whether there are as many rows as the budget asks for.

    Raises:
        UserError: if not.
    """
    if selection.budget > 1 and selection.budget > n_proxy:
        raise UserError(
            f"selection.budget asks for {int(selection.budget)} rows, the proxy set has {n_proxy}: lower it"
        )
