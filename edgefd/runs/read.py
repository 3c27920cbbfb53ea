"""Read the files of a run folder, for `edgefd compare`, `edgefd report` and `edgefd audit`.

A file that is missing, unreadable or malformed raises a `UserError` of one line that names the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgefd.core.errors import UserError
from edgefd.core.files import read
from edgefd.core.json_files import parse_json
from edgefd.core.text import shown
from edgefd.core.yaml_files import read_yaml
from edgefd.runs.folder import METRICS
from edgefd.runs.personal_metrics import QUANTILES
from edgefd.runs.records import Partition, Summary, data_label
from edgefd.runs.round_metrics import Evaluation, RoundMetrics

T = TypeVar("T")
MAX_FILE = 2**28
"""largest size in bytes of a text file of a run folder"""
MAX_NUMBER = 2**53
"""largest absolute value of a number in a run folder"""
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
        """Name of the data set, and the part of it on which accuracies are measured if it is not the test set."""
        name = self.summary.dataset if self.summary else str(self.config["data"]["name"])
        return data_label(name, self.evaluated_on)

    @property
    def evaluated_on(self) -> str:
        """The samples on which accuracies are measured: test, or validation; test in a run of an older edgefd."""
        return str(self.config["data"].get("evaluate_on", "test"))

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
    rounds = tuple(_rounds(folder / METRICS))
    if not rounds:
        raise UserError(f"run {folder} completed no round: there is nothing to report")
    run = RunRecord(
        folder=folder,
        config=read_config(folder),
        rounds=rounds,
        partition=_read_if_present(Partition, folder / "partition.json"),
        evaluation=_read_if_present(Evaluation, folder / "evaluation.json"),
        summary=_read_if_present(Summary, folder / "summary.json"),
        environment=_read_if_present(dict[str, Any], folder / "env.json") or {},
    )
    for name, fits in _checks(run):
        if not fits:
            raise UserError(f"{folder / name} is malformed: its lists or sections do not fit together")
    return run


def _checks(run: RunRecord) -> Iterator[tuple[str, bool]]:
    """Yield the name of each file, and whether its lists fit together and to the other files."""
    n_clients = len(run.rounds[0].kept_per_client)
    of_clients = ("accuracy", "kept", "wrong_claims", "wrong_weight", "agreement", "personal_accuracy")
    by_client = [getattr(m, f"{name}_per_client") for m in run.rounds for name in of_clients]
    yield METRICS, n_clients > 0 and all(values is None or len(values) == n_clients for values in by_client)
    over_clients = [m.accuracy_quantiles for m in run.rounds] + [m.personal_accuracy_quantiles for m in run.rounds]
    yield METRICS, all(values is None or len(values) == len(QUANTILES) for values in over_clients)
    if run.partition is not None and (clients := run.partition.clients) is not None:
        widths = {len(client.samples_by_class) for client in clients}
        yield "partition.json", len(clients) == n_clients and len(widths) == 1 and 0 not in widths
        yield "partition.json", run.partition.label_names is None or {len(run.partition.label_names)} == widths
    if (evaluation := run.evaluation) is not None:
        classes = len(evaluation.test_by_class or [0])
        counts = [evaluation.correct_by_class, evaluation.predicted_by_class or evaluation.correct_by_class]
        right = [len(values) == classes for rows in counts for values in rows if values is not None]
        fits = {len(evaluation.clients), *map(len, counts)} == {n_clients} and all(right)
        yield "evaluation.json", fits and evaluation.test_by_class != []
    packages, objects = run.environment.get("packages", {}), run.environment.get("objects") or {}
    yield "env.json", isinstance(packages, dict) and isinstance(objects, dict)


def read_summary(folder: Path) -> Summary:
    """Read summary.json of a run folder.

    Raises:
        UserError: if it is missing or malformed.
    """
    summary = _read_if_present(Summary, folder / "summary.json")
    if summary is None:
        raise UserError(f"run {folder} has no summary.json: it did not reach its end")
    return summary


def is_complete(folder: Path) -> bool:
    """Return whether the folder holds a run that reached its end."""
    return (folder / "summary.json").exists() and read_summary(folder).complete


def read_partition(folder: Path) -> Partition:
    """Read partition.json of a run folder.

    Raises:
        UserError: if it is missing or malformed.
    """
    return _read(Partition, folder / "partition.json")


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.yaml of a run folder as plain sections; values are not checked against the present schema.

    Raises:
        UserError: if it cannot be read, or lacks the seed, the rounds, or the name of method, data or partition.
    """
    path = folder / "config.yaml"
    config: dict[str, Any] = read_yaml(path)
    try:
        for section in ("method", "data", "partition"):
            if not isinstance(config[section]["name"], str):
                raise ValueError(f"{section}.name must be text")
        int(config["train"]["rounds"]), int(config["seed"])
        models = config.get("model", {})
        if isinstance(models, list) and not (models and all(m.keys() == models[0].keys() for m in models)):
            raise ValueError("its models have no common settings")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is not the config of a run: {shown(error)}") from error
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: if the file cannot be read or holds anything else.
    """
    value = _json(path, _text(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} is malformed: it must hold a JSON object, not a {type(value).__name__}")
    return value


def _json(where: object, text: str) -> Any:
    """Return a JSON value whose numbers are all finite and of a size that sums and plots can handle."""
    try:
        value = parse_json(text)
        _check_numbers(value)
    except ValueError as error:
        raise UserError(f"{where} is malformed: {error}") from error
    return value


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner)
    elif isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise ValueError("a number in it is too large")


def _rounds(path: Path) -> Iterator[RoundMetrics]:
    text = _text(path)
    complete_lines = text[: text.rfind("\n") + 1]  # a killed or running process may have written half a line
    for number, line in enumerate(complete_lines.split("\n")[:-1], 1):
        where = f"{path}, line {number}"
        try:
            yield _ROUND.validate_python(_json(where, line))
        except ValidationError as error:
            raise UserError(f"{where} does not describe a round: {_first(error)}") from error


def _read_if_present(kind: type[T], path: Path) -> T | None:
    """Read and validate a JSON file; return None if the file does not exist."""
    return _read(kind, path) if os.path.lexists(path) else None


def _read(kind: type[T], path: Path) -> T:
    try:
        value: T = TypeAdapter(kind).validate_python(_json(path, _text(path)))
    except ValidationError as error:
        raise UserError(f"{path} is malformed: {_first(error)}") from error
    return value


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _text(path: Path) -> str:
    try:
        return read(path, MAX_FILE).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not text") from error
