"""The type of a progress callback."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[str], None]
"""a function that is called after each step, with a description of the step"""
