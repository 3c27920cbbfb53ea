"""The report of real runs: its numbers are those of the folders, it needs nothing else, and bad input is one line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgefd.core.errors import UserError
from edgefd.report.command import write_report
from edgefd.report.compare import interval
from tests.support.browser import Browser
from tests.support.commands import edgefd
from tests.support.report_runs import NEW, Page, lines, reseeded, rewrite, simulated

ZEROS = ("kept_fraction", "teacher_coverage")  # all that a method without soft labels of proxy rows has of them
METHODS = {"edgefd": "", "fedmd": "also/fedmd", "indlearn": "also/indlearn"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def text(made: Path) -> str:
    return write_report([made], None).read_text()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture
def alone(made: Path, tmp_path: Path) -> Path:
    """The first method's folder, to be spoiled."""
    shutil.copytree(made, tmp_path / "run", ignore=shutil.ignore_patterns("also", "report.html"))
    return tmp_path / "run"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def reported(*paths: Path) -> Page:
    return Page(write_report(paths, paths[0] / "report.html").read_text())


def spoil(folder: Path, name: str, **change: Any) -> None:
    found = yaml.safe_load((folder / name).read_text())
    (folder / name).write_text(json.dumps(found | change))


# what it says


def test_the_head_says_what_was_run(page: Page, made: Path) -> None:
    assert (
        "simulated on mnist_mini, dealt to 4 clients by the partition weak, for 3 rounds, with the seed 0." in page.text
    )
    summaries = {m: json.loads((made / where / "summary.json").read_text()) for m, where in METHODS.items()}
    best = max(summaries.values(), key=lambda s: s["accuracy_mean"])
    assert f"The best, {best['method']}, ends at {percent(best['accuracy_mean'])}" in page.text
    assert f"edgefd simulate {made / 'config.yaml'} baselines=[]" in page.text
    assert summaries["edgefd"]["data_sha256"] in page.text
    assert summaries["edgefd"]["data_source"] in page.text
    assert "used by none" in page.text
    shared = summaries["edgefd"]["raw_samples_disclosed"]
    assert re.search(rf"up to {shared} by (edgefd and fedmd|fedmd and edgefd)", page.text)
    rows = {row[0]: row for row in page.tables["Results"][1:]}
    assert {m: row[-2] for m, row in rows.items()} == {"edgefd": str(shared), "fedmd": str(shared), "indlearn": "0"}
    for method, summary in summaries.items():
        assert rows[method][2:4] == [percent(summary["accuracy_mean"]), percent(summary["accuracy_worst"])]


@pytest.mark.parametrize(
    ("title", "key", "closing"),
    [
        ("Accuracy, mean over clients", "accuracy_mean", True),
        ("Accuracy of the worst client", "accuracy_worst", True),
        ("Accuracy on clients' own data", "heldout_accuracy_mean", True),
        ("Accuracy of the teacher", "teacher_accuracy", False),
        ("Agreement with the teacher", "agreement_mean", True),
        ("Kept fraction", "kept_fraction", False),
        ("Wrong claims", "wrong_claims", False),
        ("Coverage of the teacher", "teacher_coverage", False),
        ("ECE of the clients' models", "ece_mean", True),
        ("ECE of the teacher", "teacher_ece", False),
    ],
)
def test_curves_are_the_metrics(page: Page, made: Path, title: str, key: str, closing: bool) -> None:
    header, *rows = page.tables[title]
    shown = {(row[0], method): cell for row in rows for method, cell in zip(header[1:], row[1:], strict=True)}
    expected = {}
    for method, where in METHODS.items():
        found = [m for m in lines(made / where) if closing or not m["closing"]]
        if any(m[key] is not None for m in found) and (where != "also/indlearn" or key not in ZEROS):
            expected |= {(str(m["round"]), method): percent(m[key]) for m in found}
    assert len(rows) >= 3
    assert shown == {k: v for k, v in expected.items() if k[0] in {row[0] for row in rows}}


def test_tables_inside_a_run_are_the_metrics(page: Page, made: Path) -> None:
    last, evaluation = lines(made)[-1], json.loads((made / "evaluation.json").read_text())
    assert page.tables["edgefd / Accuracy by client and round"][-1] == [
        "3",
        *(percent(a) for a in last["accuracy_per_client"]),
    ]
    classes = page.tables["edgefd / Accuracy by client and class"]
    for client, correct in enumerate(evaluation["correct_by_class"]):
        shares = [c / n for c, n in zip(correct, evaluation["test_by_class"], strict=True)]
        assert classes[1 + client] == [str(client), *(percent(s) for s in shares)]
    partition = json.loads((made / "partition.json").read_text())["clients"]
    data = page.tables["edgefd / Private data by client and class"]
    assert [row[1:11] for row in data[1:]] == [[str(n) for n in c["samples_by_class"]] for c in partition]
    answered = lines(made)[-2]
    claims = page.tables["edgefd / Claims by client"]
    keys = ("kept_per_client", "wrong_claims_per_client", "wrong_weight_per_client")
    assert [row[1:] for row in claims[1:]] == [[percent(answered[k][c]) for k in keys] for c in range(4)]
    assert "indlearn / Claims by client" not in page.tables  # it claims nothing


def test_bytes_are_the_metrics(page: Page, made: Path) -> None:
    rows = {row[0]: row[1:] for row in page.tables["Bytes of all rounds"][1:]}
    once = {row[0]: row[1] for row in page.tables["Bytes sent once"][1:]}
    for method, where in METHODS.items():
        summary = json.loads((made / where / "summary.json").read_text())
        assert rows[method] == [f"{summary['bytes_up']:,}", f"{summary['bytes_down']:,}"]
        assert once[method] == f"{summary['bytes_once']:,}"
    points = [row for row in page.tables["Accuracy against bytes"][1:] if row[0] == "edgefd"]
    found = lines(made)
    travelled = [sum(m["bytes_down"] for m in found[: r + 1]) + sum(m["bytes_up"] for m in found[:r]) for r in range(4)]
    assert [row[1] for row in points] == [f"{n:,}" for n in travelled]


def test_reliability_is_the_evaluation(page: Page, made: Path) -> None:
    rows = [row for row in page.tables["Reliability of the clients' models"][1:] if row[0] == "edgefd"]
    clients = json.loads((made / "evaluation.json").read_text())["clients"]
    counts = np.sum([c["count"] for c in clients], axis=0)
    right = np.sum([c["correct"] for c in clients], axis=0)
    assert [row[1] for row in rows] == [f"{n:,}" for n in counts if n]
    assert [row[3] for row in rows] == [percent(c / n) for c, n in zip(right, counts, strict=True) if n]


def test_every_plot_can_be_heard_and_read(page: Page, text: str) -> None:
    figures = [a for tag, a in page.tags if tag == "figure"]
    plots = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(plots) == len(figures) > 20
    ids = [a["id"] for tag, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for plot in plots:
        title, description = (
            re.search(rf'<(?:title|desc) id="{i}">([^<]+)<', text) for i in plot["aria-labelledby"].split()
        )
        assert title is not None
        assert description is not None
    assert "NaN" not in text
    assert text.count("<details><summary>The numbers") == len(figures)


def test_it_needs_nothing_from_anywhere(page: Page, text: str) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "img", "object", "embed", "use", "image")
        assert "src" not in attributes
        assert attributes.get("href", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|url\(|@import", text)
    assert len(text) < 500_000


def test_names_are_only_text(alone: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    config = yaml.safe_load((alone / "config.yaml").read_text())
    config["partition"]["name"], config["method"]["name"] = f"p{evil}", f"m{evil}"
    (alone / "config.yaml").write_text(yaml.safe_dump(config))
    for name, key in (("summary.json", "dataset"), ("summary.json", "data_source"), ("env.json", "commit")):
        found = json.loads((alone / name).read_text())
        (alone / name).write_text(json.dumps(found | {key: f"{key}{evil}"}))
    renamed = alone.with_name("x onerror=alert(1) <img>")
    alone.rename(renamed)
    found_page = reported(renamed)
    assert not [tag for tag, _ in found_page.tags if tag == "img"]
    for name in ("p", "m", "dataset", "data_source", "commit"):
        assert f"{name}{evil}" in found_page.text
    assert f"edgefd simulate '{renamed}/config.yaml'" in found_page.text


# several runs


def test_seeds_are_a_mean_with_its_interval(made: Path, alone: Path, tmp_path: Path) -> None:
    others = [reseeded(alone, tmp_path / f"s{seed}", seed, 0.02 * seed) for seed in (1, 2)]
    found = reported(alone, *others, made / "also" / "fedmd")
    values = [lines(folder)[-1]["accuracy_mean"] for folder in (alone, *others)]
    mean, _, low, high = interval(values)
    assert low is not None
    assert high is not None
    row = found.tables["Accuracy, mean over clients"][-1]
    header = found.tables["Accuracy, mean over clients"][0]
    assert row[header.index("edgefd")] == f"{percent(mean)} ({100 * low:.1f} to {100 * high:.1f})"
    assert "with the seeds 0, 1 and 2" in found.text
    assert "edgefd: seed 0, the first of 3 / Accuracy by client and class" in found.tables


def test_one_run_given_twice_is_one_run(made: Path) -> None:
    assert [row[1] for row in reported(made, made / "also").tables["Results"][1:]] == ["1"] * 3


# runs that are not whole


def test_an_unfinished_run_is_reported_as_far_as_it_goes(alone: Path) -> None:
    rewrite(alone, lines(alone)[:2])
    with (alone / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "clos')  # it was killed while it wrote
    (alone / "summary.json").unlink()
    (alone / "evaluation.json").unlink()
    found = reported(alone)
    assert f"{alone} is not finished: it did 2 of 3 rounds" in found.text
    assert "raw samples disclosed (no summary.json)" in found.text
    assert "reliability curves (no evaluation.json" in found.text
    assert [row[0] for row in found.tables["Accuracy, mean over clients"][1:]] == ["0", "1"]
    assert "Reliability of the clients' models" not in found.tables


def test_an_older_run_is_reported_and_what_it_lacks_is_named(alone: Path) -> None:
    rewrite(alone, [{k: v for k, v in m.items() if k not in NEW} for m in lines(alone)])
    (alone / "evaluation.json").unlink()
    found = reported(alone)
    for part in ("accuracy by class", "calibration by round, and agreement", "wrong claims by client"):
        assert re.search(rf"Not recorded in \S+/run: {part}", found.text)
    assert "Agreement with the teacher" not in found.tables
    assert found.tables["edgefd / Claims by client"][0] == ["client", "kept"]
    assert len(found.tables["Accuracy, mean over clients"]) == 5


def test_rounds_that_were_not_evaluated_are_left_out(alone: Path) -> None:
    rounds = lines(alone)
    for key in ("accuracy_mean", "accuracy_worst", "accuracy_per_client"):
        rounds[1][key] = None
    rewrite(alone, rounds)
    found = reported(alone)
    assert [row[0] for row in found.tables["Accuracy, mean over clients"][1:]] == ["0", "2", "3"]
    assert [row[0] for row in found.tables["Kept fraction"][1:]] == ["0", "1", "2"]


def test_a_run_of_devices_has_no_test_set(alone: Path) -> None:
    keys = (
        "accuracy_mean",
        "accuracy_worst",
        "accuracy_per_client",
        "ece_mean",
        "agreement_mean",
        "agreement_per_client",
    )
    rewrite(alone, [m | dict.fromkeys(keys) for m in lines(alone)])
    spoil(alone, "evaluation.json", correct_by_class=[None] * 4, clients=[None] * 4)
    spoil(alone, "env.json", command="edgefd server x.yaml --exchange folder")
    found = reported(alone)
    assert "run by devices on data like mnist_mini" in found.text
    assert f"edgefd got to {percent(lines(alone)[-1]['heldout_accuracy_mean'])} mean accuracy" in found.text
    assert "edgefd server x.yaml --exchange folder" in found.text
    assert "Not recorded" not in found.text
    assert "Accuracy on clients' own data" in found.tables
    assert "Reliability of the teacher" in found.tables
    for title in ("Accuracy, mean over clients", "ECE of the clients' models", "Accuracy against bytes"):
        assert title not in found.tables


# bad input


def no_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("[]")


def no_method(folder: Path) -> None:
    (folder / "config.yaml").write_text("seed: 0\n")


def no_rounds(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("")


def no_round(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"round": 0}\n')


def no_summary(folder: Path) -> None:
    spoil(folder, "summary.json", bytes_once="many")


def no_evaluation(folder: Path) -> None:
    spoil(folder, "evaluation.json", teacher={"count": [1], "confidence": [1], "correct": [1]})


@pytest.mark.parametrize(
    ("spoils", "says"),
    [
        (no_config, "is not the config of a run"),
        (no_method, "is not the config of a run: 'method'"),
        (no_rounds, "did not do one round"),
        (no_round, "metrics.jsonl, line 1 is not of a round: closing: Field required"),
        (no_summary, "summary.json cannot be understood: bytes_once"),
        (no_evaluation, "evaluation.json cannot be understood: teacher: .*15 bins"),
    ],
)
def test_a_damaged_run_is_one_line(alone: Path, spoils: Any, says: str) -> None:
    spoils(alone)
    with pytest.raises(UserError, match=says) as raised:
        reported(alone)
    assert "\n" not in str(raised.value)


def test_mixed_data_sets_are_refused(made: Path, alone: Path) -> None:
    spoil(alone, "summary.json", dataset="digits")
    with pytest.raises(UserError, match=r"different data sets \(digits, mnist_mini\): report on one at a time"):
        write_report([made, alone], None)
    spoil(alone, "summary.json", dataset="mnist_mini", data_sha256="0" * 64)
    with pytest.raises(UserError, match="different samples of mnist_mini"):
        write_report([made, alone], None)


def test_one_seed_run_twice_is_refused(made: Path, alone: Path) -> None:
    with pytest.raises(UserError, match="one seed was run twice"):
        write_report([made, alone], None)


def test_a_file_that_is_no_report_is_not_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.html").write_text("mine")
    with pytest.raises(UserError, match="exists and is no report"):
        write_report([made], tmp_path / "precious.html")
    with pytest.raises(UserError, match="cannot write"):
        write_report([made], tmp_path / "absent" / "report.html")
    assert write_report([made], tmp_path / "r.html") == write_report([made], tmp_path / "r.html")


def test_the_command(made: Path, tmp_path: Path) -> None:
    done = edgefd("report", str(made), str(made / "also" / "fedmd"), "--out", "r.html", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "report: r.html\n", "")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    for arguments in (["absent"], ["r.html"], ["."]):
        done = edgefd("report", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == f"error: {arguments[0]} holds no run that did a round (no metrics.jsonl at or below it)\n"


# in a browser

CONTENT = """
return [...document.querySelectorAll('figure > svg')].map((svg) => {
  const box = svg.getBoundingClientRect(), inside = svg.viewBox.baseVal;
  const marks = [...svg.querySelectorAll('path:not(.grid):not(.ideal), rect, circle')].map((m) => m.getBBox());
  const texts = [...svg.querySelectorAll('text')].map((t) => [t.getBBox(), t.textContent]);
  return {
    title: svg.querySelector('title').textContent, width: box.width, height: box.height, marks: marks.length,
    inside: marks.every((b) => b.x >= -4 && b.y >= -4 && b.x + b.width <= inside.width + 4
      && b.y + b.height <= inside.height + 4),
    texts: texts.length, cut: texts.filter(([b]) => b.x < -2 || b.x + b.width > inside.width + 12).map((t) => t[1]),
    size: box.width / inside.width * parseFloat(getComputedStyle(svg.querySelector('text')).fontSize),
  };
});
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_every_plot_has_content_in_a_browser(chromium: Browser, made: Path, text: str, width: int, dark: bool) -> None:
    chromium.look(width, dark)
    chromium.open((made / "report.html").as_uri())
    plots = chromium.run(CONTENT)
    assert len(plots) > 20
    for plot in plots:
        assert plot["width"] > 250, plot
        assert plot["height"] > 60, plot
        assert plot["marks"] >= 1, plot
        assert plot["texts"] >= 4, plot
        assert plot["inside"], plot
        assert plot["cut"] == [], plot
        assert plot["size"] > 9, plot
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    back = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(n) for n in re.findall(r"\d+", back)) < 200) == dark
    chromium.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.complaints() == []


@pytest.mark.slow
def test_what_is_folded_on_the_screen_is_printed(chromium: Browser, made: Path, text: str) -> None:
    """Of many settings, each one's plots are folded; on paper nobody can unfold them."""
    seen = "return [...document.querySelectorAll('.inside svg')].filter((s) => s.checkVisibility()).length"
    chromium.look(1200)
    chromium.open((made / "report.html").as_uri())
    every = chromium.run(seen)
    chromium.run("document.querySelectorAll('.inside').forEach((d) => { d.open = false; })")
    assert chromium.run(seen) == 0
    chromium.print()
    assert chromium.run(seen) == every > 0
    chromium.look(1200)
    assert chromium.run(seen) == 0
