"""Run folders for tests of the report, and a parser of its page."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

import edgefd
from edgefd.report.command import write_report

METHODS = {"edgefd": "", "fedmd": "also/fedmd", "indlearn": "also/indlearn"}
"""the methods of `simulated`, and the folder of each below the first"""
NEW = (
    *("wrong_claims_per_client", "wrong_weight_per_client", "ece_mean", "teacher_ece"),
    *("agreement_mean", "agreement_per_client"),
    *("personal_accuracy_mean", "personal_accuracy_per_client", "bam_mean", "macro_f1_mean", "recall_by_class"),
    *("accuracy_quantiles", "personal_accuracy_quantiles"),
)
"""fields of metrics.jsonl that an older edgefd did not write"""


def simulated(folder: Path, **sections: Any) -> Path:
    """Simulate three rounds of three methods on 600 samples."""
    raw = {
        "data": {"name": "mnist_mini", "limit": 600},
        "partition": {"name": "weak", "n_clients": 4},
        "model": {"name": "mlp"},
        "method": {"name": "edgefd", "n_clusters": 4},
        "train": {"rounds": 3},
        "run": {"workers": 0},
        "baselines": ["fedmd", "indlearn"],
    }
    edgefd.simulate(raw | sections, out=folder)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the rounds in metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rewrite(folder: Path, rounds: list[dict[str, Any]]) -> None:
    """Replace metrics.jsonl."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in rounds))


def reseeded(folder: Path, to: Path, seed: int, plus: float) -> Path:
    """Copy a run, with another seed and with all mean accuracies higher by `plus`."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("also"))
    config = yaml.safe_load((to / "config.yaml").read_text())
    (to / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
    rewrite(to, [m | {"accuracy_mean": m["accuracy_mean"] + plus} for m in lines(to)])
    return to


def update_file(folder: Path, name: str, **changes: Any) -> None:
    """Replace fields of a JSON or YAML file by others."""
    content = yaml.safe_load((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


def percent(value: float | None) -> str:
    """Format a share as the report does."""
    return "-" if value is None else f"{100 * value:.1f} %"


def report_page(*paths: Path) -> "Page":
    """Write the report on run folders, and parse it."""
    return Page(write_report(paths, paths[0] / "report.html").read_text())


class Page(HTMLParser):
    """A parsed page: its text, its tags with their attributes, and its tables.

    Tables are lists of rows by the title of the figure; the name of a fold around it is put before.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._title = self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {k: v or "" for k, v in attrs}
        self.tags.append((tag, attributes))
        self._open.append(tag)
        if tag == "details" and "inside" in attributes.get("class", ""):
            self._inside = "?"
        if tag == "div" and "aria-label" in attributes:
            prefix = f"{self._inside} / " if self._inside else ""
            self._title = prefix + attributes["aria-label"]
            assert self._title not in self.tables
            self.tables[self._title] = []
        if tag == "tr":
            self.tables[self._title].append([])
        if tag in ("td", "th"):
            self.tables[self._title][-1].append("")
        if tag in ("meta", "link"):
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._inside == "?" and self._open[-1:] == ["summary"]:
            self._inside = data
        if self._open[-1:] and self._open[-1] in ("td", "th"):
            self.tables[self._title][-1][-1] += data
