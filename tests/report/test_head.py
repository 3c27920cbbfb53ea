"""The head of a report: what was run, the outcome, and what a folder does not record."""

import json
import re
from pathlib import Path

from edgefd.runs.summary import PERSONAL
from tests.support.report_runs import METHODS, NEW, Page, lines, percent, report_page, rewrite, update_file


def test_the_head_names_what_was_run_and_its_outcome(page: Page, runs: Path) -> None:
    assert (
        "simulated on mnist_mini, split among 4 clients by the partition weak, for 3 rounds, with the seed 0."
        in page.text
    )
    summaries = {m: json.loads((runs / where / "summary.json").read_text()) for m, where in METHODS.items()}
    best = max(summaries.values(), key=lambda s: s["accuracy_mean"])
    assert f"The best, {best['method']}, ends at {percent(best['accuracy_mean'])}" in page.text
    assert f"edgefd simulate {runs / 'config.yaml'} baselines=[]" in page.text
    assert summaries["edgefd"]["data_sha256"] in page.text
    assert summaries["edgefd"]["data_source"] in page.text
    assert "used by none" in page.text
    shared = summaries["edgefd"]["raw_samples_disclosed"]
    assert re.search(rf"up to {shared} by (edgefd and fedmd|fedmd and edgefd)", page.text)
    rows = {row[0]: row for row in page.tables["Results"][1:]}
    assert {m: row[-2] for m, row in rows.items()} == {"edgefd": str(shared), "fedmd": str(shared), "indlearn": "0"}
    for method, summary in summaries.items():
        keys = ("accuracy_mean", "accuracy_worst", "heldout_accuracy_mean")
        keys += ("personal_accuracy_mean", "bam_mean", "macro_f1_mean")
        assert rows[method][2:8] == [percent(summary[key]) for key in keys]


def test_an_unfinished_run_is_reported_up_to_its_last_complete_round(single_run: Path) -> None:
    rewrite(single_run, lines(single_run)[:2])
    with (single_run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "clos')  # it was killed while it wrote
    (single_run / "summary.json").unlink()
    (single_run / "evaluation.json").unlink()
    reported = report_page(single_run)
    assert f"{single_run} is not finished: it completed 2 of 3 rounds, which are shown" in reported.text
    assert "raw samples disclosed (no summary.json)" in reported.text
    assert "reliability curves (no evaluation.json" in reported.text
    assert [row[0] for row in reported.tables["Accuracy, mean over clients"][1:]] == ["0", "1"]
    assert "Reliability of the clients' models" not in reported.tables


def test_a_run_of_an_older_edgefd_is_reported_and_its_missing_parts_are_named(single_run: Path) -> None:
    rewrite(single_run, [{k: v for k, v in m.items() if k not in NEW} for m in lines(single_run)])
    (single_run / "evaluation.json").unlink()
    reported = report_page(single_run)
    for part in (
        "accuracy by class",
        "calibration by round, and agreement",
        "personal accuracy, BAM and macro F1",
        "out-of-class fraction by client",
    ):
        assert re.search(rf"Not recorded in \S+/run: {part}", reported.text)
    assert "Agreement with the teacher" not in reported.tables
    assert reported.tables["edgefd / Acceptance by client"][0] == ["client", "accepted"]
    assert len(reported.tables["Accuracy, mean over clients"]) == 5


def test_a_run_of_devices_has_no_test_set(single_run: Path) -> None:
    keys = (
        "accuracy_mean",
        "accuracy_worst",
        "accuracy_per_client",
        "ece_mean",
        "agreement_mean",
        "agreement_per_client",
        *PERSONAL,
        "personal_accuracy_per_client",
    )
    rewrite(single_run, [m | dict.fromkeys(keys) for m in lines(single_run)])
    update_file(single_run, "evaluation.json", test_by_class=None, correct_by_class=[None] * 4, clients=[None] * 4)
    update_file(single_run, "evaluation.json", predicted_by_class=[None] * 4)
    update_file(single_run, "partition.json", clients=None, test=None)
    unknown = ("bytes_once", "data_source", "data_samples", "data_sha256")
    update_file(single_run, "summary.json", **dict.fromkeys(unknown))
    update_file(single_run, "env.json", command="edgefd serve folder x.yaml folder")
    reported = report_page(single_run)
    assert "run by devices on data like mnist_mini" in reported.text
    assert f"edgefd reached {percent(lines(single_run)[-1]['heldout_accuracy_mean'])} mean accuracy" in reported.text
    assert "edgefd serve folder x.yaml folder" in reported.text
    assert "private data by class, and bytes sent once (the data of devices are not known)" in reported.text
    assert "private data of devices" in reported.text
    assert "Accuracy on clients' own data" in reported.tables
    assert "Reliability of the teacher" in reported.tables
    for title in (
        "Accuracy, mean over clients",
        "ECE of the clients' models",
        "Accuracy against bytes",
        "Bytes sent once",
    ):
        assert title not in reported.tables
