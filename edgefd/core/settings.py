"""Parsing of plain values into a settings dataclass, without any third-party package."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgefd.core.errors import UserError


def settings_of(owner: str, kind: type, settings: Mapping[str, Any]) -> Any:
    """Build a settings dataclass from plain values.

    Args:
        owner: the subject of error messages, such as "method edgefd".
        kind: a dataclass with fields of type bool, int, float, str, None, Literal, dict from str to one of these, or
            a union of these.
        settings: values by field name.

    Raises:
        UserError: for an unknown setting, or a value of another type or out of range.
    """
    kinds, names = get_type_hints(kind), {f.name for f in dataclasses.fields(kind)}
    for name, value in settings.items():
        if name not in names:
            raise UserError(f"{owner} has no setting {name!r}")
        if not _is_a(value, kinds[name]):
            raise UserError(f"{owner}: {name} cannot be {value!r}")
    try:
        return kind(**settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"{owner}: {error}") from error


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_is_a(value, inner) for inner in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        return type(value) is dict and all(type(k) is str and _is_a(v, inner) for k, v in value.items())
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # false for NaN and huge integers
    return type(value) is kind  # NoneType for None
