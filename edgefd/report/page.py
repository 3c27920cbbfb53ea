"""The report page: its head, a comparison of the settings for each scenario, then plots within one run a setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, groupby

from edgefd.report.by_round import ACCEPTANCE, ACCURACY, CALIBRATION, TEACHER, Quantity, round_figure
from edgefd.report.bytes_sent import accuracy_bytes_figure, bytes_figure, once_figure
from edgefd.report.figure import Figure, figure_html
from edgefd.report.head import head_html, title
from edgefd.report.html import document, escape, opening
from edgefd.report.reliability import reliability_figure
from edgefd.report.settings import Setting
from edgefd.report.virtual_time import virtual_figures
from edgefd.report.within_run import figures_within_run

_KIND = "edgefd report"
MARK = opening(_KIND)
"""the first characters of every report"""
OPEN = 6
"""with more settings than this, the plots within a run are folded"""


def page(settings: Sequence[Setting]) -> str:
    """Render the whole document."""
    keys = (f"f{i}" for i in count())
    runs = [run for s in settings for run in s.runs]
    scenarios = [(name, list(members)) for name, members in groupby(settings, key=lambda s: s.scenario)]
    several = len(scenarios) > 1
    compared = "".join(_scenario(name, members, keys, several) for name, members in scenarios)
    inside = "".join(_inside(s, keys, len(settings) <= OPEN, several) for s in settings)
    main = f"<main>{compared}<h2>Inside each setting</h2>{inside}</main>"
    return document(_KIND, title(runs), head_html(settings) + main, "style.css")


def _scenario(name: str, settings: Sequence[Setting], keys: Iterator[str], several: bool) -> str:
    sections = {
        "Accuracy": _by_round(ACCURACY, settings),
        "Teacher and students": _by_round(TEACHER, settings),
        "Acceptance": _by_round(ACCEPTANCE, settings),
        "Calibration": [
            reliability_figure(settings, "clients"),
            reliability_figure(settings, "teacher"),
            *_by_round(CALIBRATION, settings),
        ],
        "Devices": virtual_figures(settings),
        "Bytes": [bytes_figure(settings), once_figure(settings), accuracy_bytes_figure(settings)],
    }
    of = f", {name}" if several else ""
    parts = []
    for heading, figures in sections.items():
        if drawn := "".join(figure_html(figure, next(keys)) for figure in figures if figure):
            parts.append(f'<section><h2>{escape(f"{heading}{of}")}</h2><div class="grid">{drawn}</div></section>')
    return "".join(parts)


def _by_round(quantities: Sequence[Quantity], settings: Sequence[Setting]) -> list[Figure | None]:
    return [round_figure(quantity, settings) for quantity in quantities]


def _inside(setting: Setting, keys: Iterator[str], opened: bool, several: bool) -> str:
    run = setting.runs[0]
    name = f"{setting.name}, {setting.scenario}" if several else setting.name
    if len(setting.runs) > 1:
        name += f": seed {run.config['seed']}, the first of {len(setting.runs)}"
    drawn = "".join(figure_html(figure, next(keys)) for figure in figures_within_run(run))
    return (
        f'<details class="inside"{" open" if opened else ""}><summary>{escape(name)}</summary>'
        f'<div class="grid">{drawn}</div></details>'
    )
