"""Families of interchangeable parts: one module for each member, found in the folder of its package."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any


@functools.cache
def member_names(package: str) -> tuple[str, ...]:
    """Return the names of the members: the modules of a package whose names do not begin with `_`, in order."""
    path = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")))


@functools.cache
def members(package: str, attribute: str) -> dict[str, Any]:
    """Return the `attribute` of each member, by the name of its module."""
    return {name: getattr(importlib.import_module(f"{package}.{name}"), attribute) for name in member_names(package)}
