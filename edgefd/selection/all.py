"""All rows are queried and distilled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgefd.selection._rule import Selection


@dataclass(frozen=True)
class All(Selection):
    """Select every row."""

    name: Literal["all"] = "all"
    """all rows"""


RULE = All
