"""Text that a terminal cannot show."""

from __future__ import annotations

import io
import sys


def escape_unknown_characters() -> None:
    """Let standard output and error write characters that their encoding does not have as escape sequences."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks replace them by other streams
            stream.reconfigure(errors="backslashreplace")
