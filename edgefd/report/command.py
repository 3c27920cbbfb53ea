"""`edgefd report`: from run folders to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgefd.core.errors import UserError
from edgefd.report.page import MARK, page
from edgefd.report.read import read_runs
from edgefd.report.settings import settings_in


def write_report(paths: Sequence[Path], out: Path | None) -> Path:
    """Report on the runs at or below those folders, in `out`, or else in report.html: in the folder if it is one alone.

    An older report is replaced, and nothing else ever.

    Raises:
        UserError: if the runs cannot be read or set side by side, or the file cannot be written.
    """
    text = page(settings_in(read_runs(paths)))
    path = out or (paths[0] if len(paths) == 1 else Path()) / "report.html"
    try:
        if path.exists() and not path.read_bytes().startswith(MARK.encode()):
            raise UserError(f"{path} exists and is no report: choose another file with --out")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another file with --out") from error
    return path
