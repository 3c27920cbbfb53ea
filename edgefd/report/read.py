"""Collect the runs of a report, and list what their folders do not record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgefd.core.errors import UserError
from edgefd.runs.read import RunRecord, find_run_folders, read_run


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read the runs at or below `paths`, each once.

    Raises:
        UserError: if a path holds none, a file is malformed, or the runs are of different data sets.
    """
    folders = find_run_folders(paths, "metrics.jsonl", "run that completed a round")
    runs = [read_run(folder) for folder in folders]
    _check_same_data(runs)
    return runs


def missing_parts(run: RunRecord) -> list[str]:
    """Describe what a run folder does not record: a stopped run or an older edgefd wrote less."""
    evaluated = [m for m in run.rounds if m.accuracy_mean is not None]
    missing = []
    if run.summary is None:
        missing.append("data source, bytes sent once, proxy labels used and raw samples disclosed (no summary.json)")
    if run.partition is None:
        missing.append("private data by class (no partition.json)")
    elif run.partition.clients is None:
        missing.append("private data by class, and bytes sent once (the data of devices are not known)")
    if run.evaluation is None:
        missing.append(
            "accuracy by class and reliability curves (no evaluation.json: it is written at the end of a run)"
        )
    if "epsilon" in (defence := run.config.get("defence", {})):
        missing.append(f"held-out accuracies and losses (no noise of defence {defence['name']} covers them: not sent)")
    if evaluated and all(m.ece_mean is None for m in evaluated):
        missing.append("calibration by round, and agreement with the teacher (written by an older edgefd)")
    if evaluated and all(m.macro_f1_mean is None for m in evaluated):
        missing.append("personal accuracy, BAM and macro F1 (written by an older edgefd)")
    if any(m.wrong_claims is not None and m.wrong_claims_per_client is None for m in run.rounds):
        missing.append("out-of-class fraction by client (written by an older edgefd)")
    return missing


def _check_same_data(runs: Sequence[RunRecord]) -> None:
    names = sorted({run.dataset for run in runs})
    if len(names) > 1:
        raise UserError(f"these runs are of different data sets ({', '.join(names)}): report on one at a time")
    contents = {run.summary.data_sha256: run.folder for run in runs if run.summary and run.summary.data_sha256}
    if len(contents) > 1:
        first, second, *_ = contents.values()
        raise UserError(f"{first} and {second} are of different samples of {names[0]}: report on one at a time")
