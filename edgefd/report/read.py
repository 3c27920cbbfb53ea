"""Run folders → `RunRecord`: everything a report says comes from these files, and nothing else is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from edgefd.core.errors import UserError
from edgefd.runs.round_metrics import Evaluation, RoundMetrics

Kind = TypeVar("Kind")
_ROUND = TypeAdapter(RoundMetrics)


@dataclass(frozen=True)
class Holding:
    """What a client holds."""

    client: int
    samples_by_class: list[int]
    """that it was dealt, contributed and held-out ones included"""
    train: int
    heldout: int
    contributed: int


@dataclass(frozen=True)
class Partition:
    """partition.json."""

    clients: list[Holding]
    proxy: int
    """samples of the proxy set"""


@dataclass(frozen=True)
class Summary:
    """What a report takes of summary.json."""

    dataset: str
    complete: bool
    bytes_once: int
    seconds_total: float
    proxy_labels_used: bool
    raw_samples_disclosed: int
    data_source: str
    data_samples: int
    data_sha256: str


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run folder. A run that was killed has no summary and no evaluation; an older one may lack some files."""

    folder: Path
    config: dict[str, Any]
    rounds: tuple[RoundMetrics, ...]
    partition: Partition | None
    evaluation: Evaluation | None
    summary: Summary | None
    environment: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether it reached its end."""
        return self.rounds[-1].closing

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.config["method"]["name"])

    @property
    def scenario(self) -> str:
        """The partition's name."""
        return str(self.config["partition"]["name"])

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.summary.dataset if self.summary else str(self.config["data"]["name"])

    @property
    def answered(self) -> tuple[RoundMetrics, ...]:
        """The rounds in which clients answered: all but the closing one."""
        return tuple(m for m in self.rounds if not m.closing)

    @property
    def simulated(self) -> bool:
        """Whether there is a test set: a run of devices has none."""
        return any(m.accuracy_mean is not None for m in self.rounds)


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The runs at or below those folders, each once.

    Raises:
        UserError: if a path holds none, a file cannot be understood, or the runs are of different data sets.
    """
    folders: set[Path] = set()
    for path in paths:
        found = {p.parent.resolve(): p.parent for p in path.rglob("metrics.jsonl")} if path.is_dir() else {}
        if not found:
            raise UserError(f"{path} holds no run that did a round (no metrics.jsonl at or below it)")
        folders |= {folder for real, folder in found.items() if real not in {f.resolve() for f in folders}}
    runs = [read_run(folder) for folder in sorted(folders)]
    _check_alike(runs)
    return runs


def read_run(folder: Path) -> RunRecord:
    """One run folder.

    Raises:
        UserError: if a file of it cannot be understood, or not one round was done.
    """
    rounds = tuple(_rounds(folder / "metrics.jsonl"))
    if not rounds:
        raise UserError(f"run {folder} did not do one round: there is nothing to report")
    return RunRecord(
        folder=folder,
        config=_config(folder / "config.yaml"),
        rounds=rounds,
        partition=_checked(Partition, folder / "partition.json"),
        evaluation=_checked(Evaluation, folder / "evaluation.json"),
        summary=_checked(Summary, folder / "summary.json"),
        environment=_checked(dict[str, Any], folder / "env.json") or {},
    )


def missing_parts(run: RunRecord) -> list[str]:
    """What this run folder does not record, in words; an older edgefd or a run that was stopped wrote less."""
    simulated = [m for m in run.rounds if m.accuracy_mean is not None]
    found = []
    if run.summary is None:
        found.append("data source, bytes sent once, proxy labels used and raw samples disclosed (no summary.json)")
    if run.partition is None:
        found.append("private data by class (no partition.json)")
    if run.evaluation is None:
        found.append("accuracy by class and reliability curves (no evaluation.json: it is written at the end of a run)")
    if simulated and all(m.ece_mean is None for m in simulated):
        found.append("calibration by round, and agreement with the teacher (written by an older edgefd)")
    if any(m.wrong_claims is not None and m.wrong_claims_per_client is None for m in run.rounds):
        found.append("wrong claims by client (written by an older edgefd)")
    return found


def _check_alike(runs: Sequence[RunRecord]) -> None:
    names = sorted({run.dataset for run in runs})
    if len(names) > 1:
        raise UserError(f"these runs are of different data sets ({', '.join(names)}): report on one at a time")
    contents = {run.summary.data_sha256: run.folder for run in runs if run.summary}
    if len(contents) > 1:
        first, second, *_ = contents.values()
        raise UserError(f"{first} and {second} are of different samples of {names[0]}: report on one at a time")


def _rounds(path: Path) -> Iterator[RoundMetrics]:
    text = _text(path)
    whole = text[: text.rfind("\n") + 1]  # a run that is killed, or still goes on, may have written half a line
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            yield _ROUND.validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path}, line {number} is not of a round: {_first(error)}") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(_text(path))
        for section in ("method", "data", "partition"):
            str(found[section]["name"])
        int(found["train"]["rounds"]), int(found["seed"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the config of a run: {' '.join(str(error).split())}") from error
    config: dict[str, Any] = found
    return config


def _checked(kind: type[Kind], path: Path) -> Kind | None:
    """None if there is no such file."""
    if not path.exists():
        return None
    try:
        found: Kind = TypeAdapter(kind).validate_json(_text(path))
    except ValidationError as error:
        raise UserError(f"{path} cannot be understood: {_first(error)}") from error
    return found


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from error
