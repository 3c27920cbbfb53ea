"""Write the report of run folders to a file (`edgefd report`)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path, PosixPath

from edgefd.core.errors import UserError
from edgefd.core.files import SHARED, get, os_errors, put, removed_on_error
from edgefd.report.page import MARK, page
from edgefd.report.read import read_runs
from edgefd.report.settings import settings_in

_MAX_PAGE = 2**30  # bytes of a report that is replaced


class ReportFile(PosixPath):
    """The path of a report. A notebook shows the page itself, without scripts and apart from its own page."""

    def _repr_html_(self) -> str | None:
        if not self.is_file():
            return None
        page = html.escape(self.read_text(encoding="utf-8"), quote=True)
        return f'<iframe sandbox srcdoc="{page}" width="100%" height="640" style="border: 1px solid #ccc"></iframe>'


def write_report(paths: Sequence[Path], out: Path | None) -> ReportFile:
    """Write a report on the runs at or below `paths`, and return its path.

    The default of `out` is report.html, in the folder if `paths` is one folder, otherwise in the working directory. An
    older report is replaced; any other existing file is refused. Others may read the page, as far as the
    umask allows: it holds no private sample.

    Raises:
        UserError: if the runs cannot be read or compared, or the file cannot be written.
    """
    text = page(settings_in(read_runs(paths)))
    path = out or (paths[0] if len(paths) == 1 else Path()) / "report.html"
    with os_errors(f"write {path}", advice="choose another file with --out"):
        try:
            present = get(path, _MAX_PAGE)
        except ValueError as error:
            raise UserError(f"{path} exists and is not a report ({error}): choose another file with --out") from error
        if present is not None and not present.startswith(MARK.encode()):
            raise UserError(f"{path} exists and is not a report: choose another file with --out")
        with removed_on_error(path):
            put(path, text.encode(), SHARED)
    return ReportFile(path)
