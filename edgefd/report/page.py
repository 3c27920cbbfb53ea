"""The page: head, the settings side by side for each scenario, then inside one run of each setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import count, groupby

from edgefd.report.across_runs import (
    ACCURACY,
    CALIBRATION,
    CLAIMS,
    TEACHER,
    Quantity,
    accuracy_bytes_figure,
    bytes_figure,
    once_figure,
    reliability_figure,
    round_figure,
)
from edgefd.report.figure import Figure, figure_html
from edgefd.report.head import head_html, title
from edgefd.report.settings import Setting
from edgefd.report.within_run import inside_figures

MARK = "<!doctype html><!-- edgefd report -->"
"""how a report begins"""
OPEN = 6
"""with more settings than this, what is inside them is folded"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(settings: Sequence[Setting]) -> str:
    """The whole document."""
    keys = (f"f{i}" for i in count())
    runs = [run for s in settings for run in s.runs]
    style = files("edgefd.report").joinpath("style.css").read_text(encoding="utf-8")
    scenarios = [(name, list(members)) for name, members in groupby(settings, key=lambda s: s.scenario)]
    compared = "".join(_scenario(name, members, keys, len(scenarios) > 1) for name, members in scenarios)
    inside = "".join(_inside(s, keys, len(settings) <= OPEN, len(scenarios) > 1) for s in settings)
    return (
        f'{MARK}<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title(runs))}</title><style>{style}</style></head><body>"
        f"{head_html(settings)}<main>{compared}<h2>Inside each setting</h2>{inside}</main></body></html>\n"
    )


def _scenario(name: str, settings: Sequence[Setting], keys: Iterator[str], several: bool) -> str:
    parts = {
        "Accuracy": _by_round(ACCURACY, settings),
        "Teacher and students": _by_round(TEACHER, settings),
        "Claims": _by_round(CLAIMS, settings),
        "Calibration": [
            *(reliability_figure(settings, whose) for whose in ("clients", "teacher")),
            *_by_round(CALIBRATION, settings),
        ],
        "Bytes": [bytes_figure(settings), once_figure(settings), accuracy_bytes_figure(settings)],
    }
    of = f", {name}" if several else ""
    return "".join(_grid(f"{heading}{of}", figures, keys) for heading, figures in parts.items() if any(figures))


def _by_round(quantities: Sequence[Quantity], settings: Sequence[Setting]) -> list[Figure | None]:
    return [round_figure(quantity, settings) for quantity in quantities]


def _grid(heading: str, figures: Sequence[Figure | None], keys: Iterator[str]) -> str:
    drawn = "".join(figure_html(figure, next(keys)) for figure in figures if figure)
    return f'<section><h2>{escape(heading)}</h2><div class="grid">{drawn}</div></section>'


def _inside(setting: Setting, keys: Iterator[str], opened: bool, several: bool) -> str:
    run = setting.runs[0]
    name = f"{setting.name}, {setting.scenario}" if several else setting.name
    if len(setting.runs) > 1:
        name += f": seed {run.config['seed']}, the first of {len(setting.runs)}"
    drawn = "".join(figure_html(figure, next(keys)) for figure in inside_figures(run))
    return (
        f'<details class="inside"{" open" if opened else ""}><summary>{escape(name)}</summary>'
        f'<div class="grid">{drawn}</div></details>'
    )
