"""Draw accuracy against all bytes (once, up and down), and say how long a round takes on a link.

    edgefd sweep simulations/frontier_bytes.yaml --out runs/bytes
    python simulations/frontier_bytes.py runs/bytes --out bytes.svg     # and bytes.csv with the numbers
    python simulations/frontier_bytes.py runs/bytes --links             # a Markdown table

A plot has one panel for each model and partition, and the mean over seeds of each method and codec. Bytes are those of
all clients. `edgefd compare runs/bytes --metrics bytes --reach 0.9` prints the bytes until an accuracy was measured.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefd.core.errors import UserError
from edgefd.core.files import os_errors
from edgefd.report.figure import byte_text, tick_percent
from edgefd.report.html import escape
from edgefd.report.plots import Curve, line_plot
from edgefd.report.read import read_runs
from edgefd.report.settings import Point, Setting, accuracy_by_bytes, settings_in
from edgefd.report.svg import HEIGHT, WIDTH, Axis, line_style, mark, text
from edgefd.runs.read import RunRecord

STYLE = """
svg{font:11px sans-serif;background:#fff;color:#222}text{fill:currentColor}.title{font-weight:bold}
.grid{stroke:#ddd}.curve{fill:none;stroke:var(--c);stroke-width:1.5}.mark{fill:var(--c)}
.band{fill:var(--c);opacity:.15}.d1 .curve{stroke-dasharray:6 3}.d2 .curve{stroke-dasharray:2 2}
.d3 .curve{stroke-dasharray:8 2 2 2}
.s0{--c:#0b62a4}.s1{--c:#c0392b}.s2{--c:#1e8449}.s3{--c:#8e44ad}.s4{--c:#b9770e}.s5{--c:#566573}
"""


@dataclass(frozen=True)
class Link:
    """A link of a device, with the highest rates that its standard gives: times are lower bounds."""

    name: str
    up: float
    """bits per second to the server"""
    down: float


LINKS = (
    Link("LoRaWAN", 54.7, 54.7),  # EU868, DR5: 5,470 bit/s, of which a device may use 1 % of the time
    Link("2G", 13.4e3, 53.6e3),  # GPRS, CS-2: 13.4 kbit/s a slot, 4 slots down and 1 up
    Link("LTE", 5e6, 10e6),  # category 1
    Link("Wi-Fi", 65e6, 65e6),  # 802.11n, one stream, 20 MHz
)


def main() -> int:
    """Read runs, then write the figure or print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or folders above them")
    arguments.add_argument("--out", type=Path, metavar="FILE.svg", help="the figure; the numbers are in FILE.csv")
    arguments.add_argument("--links", action="store_true", help="print how long a round takes on a link")
    given = arguments.parse_args()
    runs = [run for run in read_runs(given.runs) if run.complete and run.simulated]
    if not runs:
        raise UserError("none of the runs has reached its end")
    settings = settings_in(runs)
    if given.links:
        print_links(settings)
    if given.out:
        with os_errors(f"write {given.out}"):
            given.out.write_text(figure(settings))
            write_numbers(settings, given.out.with_suffix(".csv"))
    return 0


def label(run: RunRecord) -> str:
    """Return the method and the codec of a run, with what else tells runs of the sweep apart."""
    codec, epochs = run.config["codec"], run.config["train"].get("local_epochs")
    above = codec.get("changes_above")
    changes = "" if above is None else f", changes above {above:g}"
    name = (run.summary.codec if run.summary else None) or codec["name"]
    return f"{run.method} {name}{changes}" + (f", {epochs} local epochs" if epochs else "")


def panel_of(run: RunRecord) -> tuple[str, str]:
    """Return the model and the partition of a run."""
    model = run.config["model"]
    names = [m["name"] for m in (model if isinstance(model, list) else [model])]
    return ", ".join(name.rpartition(":")[2] for name in names), run.scenario


def with_once(setting: Setting) -> list[Point]:
    """Return accuracy against all bytes until it was measured, those that are sent once included."""
    once = sum((run.summary.bytes_once or 0) if run.summary else 0 for run in setting.runs) / len(setting.runs)
    return [Point(p.x + once, p.mean, p.low, p.high) for p in accuracy_by_bytes(setting) if p.x + once > 0]


def figure(settings: Sequence[Setting]) -> str:
    """Return the SVG of all panels, with a legend below."""
    labels = list(dict.fromkeys(label(s.runs[0]) for s in settings))
    points = {id(s): with_once(s) for s in settings}
    every = [p.x for found in points.values() for p in found]
    x = Axis("bytes, once, up and down", *_decades(every), lambda power: byte_text(10**power), whole=True)
    models, scenarios = (list(dict.fromkeys(panel_of(s.runs[0])[i] for s in settings)) for i in (0, 1))
    body = []
    for row, model in enumerate(models):
        for column, scenario in enumerate(scenarios):
            shown = [s for s in settings if panel_of(s.runs[0]) == (model, scenario)]
            curves = [_curve(label(s.runs[0]), labels.index(label(s.runs[0])), points[id(s)]) for s in shown]
            plot = text(WIDTH / 2, 0, f"{model}, {scenario}", "middle", "title")
            plot += line_plot(x, Axis("", 0, 1, tick_percent), curves)
            body.append(f'<g transform="translate({column * (WIDTH + 12)} {14 + row * (HEIGHT + 24)})">{plot}</g>')
    top, width = 14 + len(models) * (HEIGHT + 24), len(scenarios) * (WIDTH + 12)
    for i, name in enumerate(labels):
        sample = f'<g class="{line_style(i)}"><path class="curve" d="M0 -4H30"/>{mark(i, 15, -4, 3)}</g>'
        place = f"translate({8 + (i % 3) * width / 3:.0f} {top + 16 * (i // 3)})"
        body.append(f'<g transform="{place}">{sample}{text(38, 0, name, "start")}</g>')
    height = top + 16 * -(-len(labels) // 3)
    title = "Accuracy (mean over clients) against all bytes that were sent until it was measured"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -8 {width} {height + 8}" role="img">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{''.join(body)}</svg>\n"
    )


def _decades(values: Sequence[float]) -> tuple[float, float]:
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


def _curve(name: str, style: int, points: Sequence[Point]) -> Curve:
    band = tuple((math.log10(p.x), p.low, p.high) for p in points if p.low is not None and p.high is not None)
    return Curve(name, style, tuple((math.log10(p.x), p.mean) for p in points), band)


def write_numbers(settings: Sequence[Setting], path: Path) -> None:
    """Write the points of the figure as comma-separated values."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "partition", "method", "runs", "bytes", "accuracy"))
        for s in settings:
            first = s.runs[0]
            names = (*panel_of(first), label(first), len(s.runs))
            writer.writerows((*names, round(p.x), f"{p.mean:.4f}") for p in with_once(s))


def print_links(settings: Sequence[Setting]) -> None:
    """Print the mean bytes of a client in a round, and how long they take on each link."""
    print(f"| model | partition | method | up | down | {' | '.join(link.name for link in LINKS)} |")
    print("| --- " * (5 + len(LINKS)) + "|")
    for s in settings:
        up, down = (mean_bytes(s, name) for name in ("bytes_up", "bytes_down"))
        times = [duration(8 * up / link.up + 8 * down / link.down) for link in LINKS]
        cells = (*panel_of(s.runs[0]), f"`{label(s.runs[0])}`", byte_text(up), byte_text(down), *times)
        print(f"| {' | '.join(cells)} |")


def mean_bytes(setting: Setting, name: str) -> float:
    """Return the mean over the runs of the bytes of a client in a round in one direction."""
    of_runs = []
    for run in setting.runs:
        reports = sum(sum(kept is not None for kept in m.kept_per_client) for m in run.answered)
        of_runs.append(sum(getattr(m, name) for m in run.rounds) / reports)
    return sum(of_runs) / len(of_runs)


def duration(seconds: float) -> str:
    """Format a time with two digits and a unit.

    >>> [duration(s) for s in (0.0042, 75, 5000, 400_000)]
    ['4.2 ms', '1.2 min', '1.4 h', '4.6 d']
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:.{0 if seconds >= 9.95 * size else 1}f} {unit}"
    return f"{1000 * seconds:.{0 if seconds >= 0.00995 else 1}f} ms"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
