"""Read the files of a run folder, for `edgefd compare`, `edgefd report` and `edgefd audit`.

A file that is missing, unreadable or malformed raises a `UserError` of one line that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgefd.core.errors import UserError
from edgefd.core.yaml_files import read_yaml
from edgefd.runs.records import Partition, Summary
from edgefd.runs.round_metrics import Evaluation, RoundMetrics

T = TypeVar("T")
_ROUND = TypeAdapter(RoundMetrics)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The content of one run folder.

    A run that was killed has no summary and no evaluation. A run of an older edgefd may lack some files.
    """

    folder: Path
    config: dict[str, Any]
    rounds: tuple[RoundMetrics, ...]
    partition: Partition | None
    evaluation: Evaluation | None
    summary: Summary | None
    environment: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether the run reached its end."""
        return self.rounds[-1].closing

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config["method"]["name"])

    @property
    def scenario(self) -> str:
        """Name of the partition."""
        return str(self.config["partition"]["name"])

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.summary.dataset if self.summary else str(self.config["data"]["name"])

    @property
    def answered(self) -> tuple[RoundMetrics, ...]:
        """The rounds in which clients sent reports: all except the closing one."""
        return tuple(m for m in self.rounds if not m.closing)

    @property
    def simulated(self) -> bool:
        """Whether accuracy on a test set was measured. A run of real devices has no test set."""
        return any(m.accuracy_mean is not None for m in self.rounds)


def find_run_folders(paths: Sequence[Path], file: str, description: str = "run") -> list[Path]:
    """Return the folders at or below `paths` that hold `file`, each once, in order of their names.

    Raises:
        UserError: if there is none at or below one of the paths; the message calls it a `description`.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        below = [p.parent for p in path.rglob(file)] if path.is_dir() else []
        if not below:
            raise UserError(f"{path} holds no {description} (no {file} at or below it)")
        for folder in below:
            folders.setdefault(folder.resolve(), folder)
    return sorted(folders.values())


def read_run(folder: Path) -> RunRecord:
    """Read one run folder.

    Raises:
        UserError: if a file cannot be read or is malformed, or if the run completed no round.
    """
    rounds = tuple(_rounds(folder / "metrics.jsonl"))
    if not rounds:
        raise UserError(f"run {folder} completed no round: there is nothing to report")
    return RunRecord(
        folder=folder,
        config=read_config(folder),
        rounds=rounds,
        partition=_read_if_present(Partition, folder / "partition.json"),
        evaluation=_read_if_present(Evaluation, folder / "evaluation.json"),
        summary=_read_if_present(Summary, folder / "summary.json"),
        environment=_read_if_present(dict[str, Any], folder / "env.json") or {},
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.yaml of a run folder as plain sections; values are not checked against the present schema.

    Raises:
        UserError: if it cannot be read, or lacks the seed, the rounds, or the name of method, data or partition.
    """
    path = folder / "config.yaml"
    config: dict[str, Any] = read_yaml(path)
    try:
        for section in ("method", "data", "partition"):
            str(config[section]["name"])
        int(config["train"]["rounds"]), int(config["seed"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is not the config of a run: {' '.join(str(error).split())}") from error
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: if the file cannot be read or holds anything else.
    """
    text = _text(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is malformed: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is malformed: it must hold a JSON object, not a {type(value).__name__}")
    return value


def _rounds(path: Path) -> Iterator[RoundMetrics]:
    text = _text(path)
    complete_lines = text[: text.rfind("\n") + 1]  # a killed or running process may have written half a line
    for number, line in enumerate(complete_lines.splitlines(), 1):
        try:
            yield _ROUND.validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path}, line {number} does not describe a round: {_first(error)}") from error


def _read_if_present(kind: type[T], path: Path) -> T | None:
    """Read and validate a JSON file; return None if the file does not exist."""
    if not path.exists():
        return None
    try:
        value: T = TypeAdapter(kind).validate_json(_text(path))
    except ValidationError as error:
        raise UserError(f"{path} is malformed: {_first(error)}") from error
    return value


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from error
