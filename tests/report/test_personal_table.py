"""Tables of personal and general quality, as `edgefd compare --metrics personal` and `edgefd sweep` show them."""

import io
import json
from pathlib import Path

from rich.console import Console

from edgefd.report.compare import load_runs
from edgefd.report.personal_table import HEADER, personal_rows
from edgefd.runs.summary import PERSONAL
from edgefd.simulation.progress import personal_tables
from tests.support.commands import edgefd


def run(method: str, seed: int, **figures: object) -> dict[str, object]:
    config = {"seed": seed, "data": {"name": "a"}, "method": {"name": method}, "partition": {"name": "iid"}}
    names = {"dataset": "a", "scenario": "iid", "method": method, "data_sha256": ""}
    return {"config": config, **names, **figures}


def figures(personal: float, general: float, bam: float) -> dict[str, object]:
    means = {"personal_accuracy_mean": personal, "accuracy_mean": general, "bam_mean": bam, "macro_f1_mean": 0.5}
    return means | {"accuracy_quantiles": [general - 0.1, general, general + 0.1]}


def test_rows_are_means_over_seeds_with_the_best_bam_first() -> None:
    runs = [
        run("alone", 0, **figures(1.0, 0.1, 0.3162)),
        run("together", 0, **figures(0.8, 0.6, 0.69)),
        run("together", 1, **figures(0.9, 0.7, 0.79)),
        run("older", 0, accuracy_mean=0.4),
    ]
    rows = [dict(zip(HEADER, row, strict=True)) for row in personal_rows(runs)]
    assert [row["method"] for row in rows] == ["together", "alone", "older"]
    expected = {"personal": "85.0", "general": "65.0", "BAM": "74.0", "F1": "50.0", "10 %": "55.0", "runs": "2"}
    assert rows[0] | expected == rows[0]
    assert (rows[1]["50 %"], rows[1]["90 %"]) == ("10.0", "20.0")
    assert [rows[2][name] for name in ("personal", "general", "BAM", "10 %")] == ["-", "40.0", "-", "-"]


def test_the_table_fits_eighty_columns() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(*personal_tables([run("selective_fd", s, **figures(1.0, 0.8, 0.9)) for s in range(3)]))
    lines = text.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    row = "selective_fd 100.0 80.0 90.0 50.0 70.0 80.0 90.0 3"
    assert row.split() in [line.split() for line in lines]


def test_the_command_prints_the_figures_of_the_summaries(runs: Path) -> None:
    printed = edgefd("compare", str(runs), "--metrics", "personal", "--format", "csv", cwd=runs)
    summary = json.loads((runs / "summary.json").read_text())
    assert all(summary[name] is not None for name in PERSONAL)
    row = next(line.split(",") for line in printed.stdout.splitlines() if line.split(",")[2] == "edgefd")
    assert row[-6:-3] == [f"{100 * summary[k]:.1f}" for k in ("accuracy_mean", "bam_mean", "macro_f1_mean")]
    assert row[-3:] == [f"{100 * value:.1f}" for value in summary["accuracy_quantiles"]]
    assert len(load_runs([runs])) == 3


def test_the_wide_table_has_accuracies_only(runs: Path) -> None:
    printed = edgefd("compare", str(runs), "--metrics", "personal", "--format", "wide", cwd=runs)
    assert printed.returncode == 2
    assert "--format wide shows accuracies only" in printed.stderr
