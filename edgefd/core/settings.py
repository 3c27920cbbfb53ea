"""Build a settings dataclass from plain values, with checks that need no third-party package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from edgefd.core.errors import UserError

if TYPE_CHECKING:
    pass


def settings_of(whose: str, kind: type, settings: Mapping[str, Any]) -> Any:
    """A dataclass whose fields are of type bool, int, float, str or Literal, from plain values; `whose` is for errors.

    Raises:
        UserError: for an unknown setting, or a value of another type or out of range.
    """
    kinds = get_type_hints(kind)
    for name, value in settings.items():
        if name not in kinds:
            raise UserError(f"{whose} has no setting {name!r}")
        if not _is_a(value, kinds[name]):
            raise UserError(f"{whose}: {name} cannot be {value!r}")
    try:
        return kind(**settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"{whose}: {error}") from error


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind
