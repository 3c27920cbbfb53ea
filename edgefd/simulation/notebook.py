"""Output in notebooks: a progress bar that is updated in place, and the table of a run. It needs no widgets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edgefd.report.html import escape

_INTERVAL = 0.1
"""seconds between two updates: a notebook stores and sends every one of them"""


class NotebookBar:
    """A progress bar in the output of a cell: one output, however many steps there are."""

    def __init__(self, name: str, total: int, text: str) -> None:
        from IPython.display import display

        self._name, self._total, self._state = name, total, (0, text)
        self._shown = time.monotonic()
        self._handle: Any = display(self._content(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def update(self, done: int, text: str) -> None:
        """Show that `done` steps are done, unless the last update was a moment ago."""
        self._state = done, text
        if time.monotonic() - self._shown >= _INTERVAL:
            self.show()

    def show(self) -> None:
        """Show the present state."""
        self._shown = time.monotonic()
        self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        done, text = self._state
        bar = f'<progress value="{done}" max="{self._total}"></progress>'
        return {
            "text/plain": f"{self._name} {done}/{self._total} {text}",
            "text/html": f"<div>{escape(self._name)} {bar} {done}/{self._total} {escape(text)}</div>",
        }


def run_html(summaries: Mapping[str, Mapping[str, Any]], folder: object) -> str:
    """Return a small table of a run and its baselines, by their names, as HTML."""
    head = ("method", "accuracy", "worst client", "MB up", "MB down", "s")
    rows = []
    for name, s in summaries.items():
        fractions = ("-" if s[key] is None else f"{s[key]:.4f}" for key in ("accuracy_mean", "accuracy_worst"))
        sizes = (f"{s[key] / 1e6:.2f}" for key in ("bytes_up", "bytes_down"))
        rows.append((name, *fractions, *sizes, f"{s['seconds_total']:.0f}"))
    first = next(iter(summaries.values()))
    title = f"{first['dataset']}, {first['scenario']}, {first['rounds']} rounds, seed {first['seed']}: {folder}"
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    heading = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><caption>{escape(title)}</caption><tr>{heading}</tr>{cells}</table>"
