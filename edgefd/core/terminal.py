"""Text that a terminal cannot show, or must not obey."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

from edgefd.core.text import escaped

if TYPE_CHECKING:
    from rich.console import Console


def escape_unknown_characters() -> None:
    """Let standard output and error write characters that their encoding does not have as escape sequences."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks replace them by other streams
            stream.reconfigure(errors="backslashreplace")


def safe_console(**options: Any) -> Console:
    """Return a console that shows text as it is, also in tables: no markup, links or escape sequences in names."""
    # Here, because devices have no rich, and its import draws from the random numbers of a user of Python.
    from rich.console import Console
    from rich.text import Text

    class SafeConsole(Console):
        def render_str(self, text: str, **style: Any) -> Text:
            return super().render_str(escaped(text), **style)

    return SafeConsole(markup=False, emoji=False, **options)
