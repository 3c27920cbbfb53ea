"""Read a recorded run back: what each party received (`edgefd.runs.record`), and the federation behind it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgefd.auditing.recording.seal import check_complete, check_seal
from edgefd.config.load import load_config
from edgefd.config.schema import Config
from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.files import read
from edgefd.core.knowledge import Knowledge
from edgefd.core.npz import npz_arrays
from edgefd.data.datasets import Dataset
from edgefd.federation.clients import Federation
from edgefd.federation.method import MessageKind
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.rounds.participation import largest_age
from edgefd.rounds.validation import expected_report
from edgefd.runs.evaluate import evaluation_ranges
from edgefd.runs.facts import members_of
from edgefd.runs.load_data import proxy_owners
from edgefd.runs.prepare import prepare
from edgefd.runs.read import MAX_FILE, read_json, read_partition, read_summary
from edgefd.runs.record import CLAIMS, COORDINATOR, FINAL, KNOWLEDGE, model_file
from edgefd.runs.records import Partition, Summary
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import expected_teacher_of
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import TEACHER, report_file, round_folder
from edgefd.wire.expected import ExpectedReport, UnexpectedContent

T = TypeVar("T")

_MAX_ARRAYS = 2**32  # bytes of a recorded message, or of the parameters of a model
_AGAIN = "restore the folder, or run it again"
_RECORD_COMMAND = "run edgefd simulate CONFIG run.record_knowledge=true --out RUN"


@dataclass(frozen=True, eq=False)
class Recording:
    """A run that recorded its knowledge."""

    folder: Path
    config: Config
    dataset: Dataset
    federation: Federation
    digest: str
    """sha256 over seal and summary, which identifies the run with all its messages and models"""
    seal: str
    """sha256 of the seal, see `edgefd.auditing.recording.seal`"""
    owner: Int64
    """client that contributed each proxy row, int64 [P]; -1 = public, -2 = a client that is not recorded"""
    deployed: bool = False
    """whether a coordinator recorded the run, which sees messages alone.

    The clients' data in `federation` are then those that the config would give to simulated clients; what the devices
    really hold is not known. Only the proxy set with its contributors and the test set are meaningful."""

    @property
    def rounds(self) -> range:
        """Rounds in which clients sent reports."""
        return range(self.config.train.rounds)

    @property
    def model_rounds(self) -> list[int]:
        """Rounds whose client models are stored."""
        names = [path.name for path in (self.folder / KNOWLEDGE / "models").iterdir()]
        return sorted(int(name) for name in names if re.fullmatch(r"[0-9]{4,9}", name))


def open_recording(folder: Path, objects: Mapping[str, Any] | None = None) -> Recording:
    """Open the recording of a run folder; `objects` are the objects of a session that its config names.

    Raises:
        UserError: if it is no run folder, the run was not recorded or did not end, its data have changed, or its
            members and non-members overlap; if a file of the recording is not what the run wrote; or if an audit cannot
            read the messages of its method.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml")
    config = load_config(folder / "config.yaml", objects=objects)
    deployed = (folder / KNOWLEDGE / COORDINATOR).is_file()
    if not config.run.record_knowledge or not (deployed or (folder / KNOWLEDGE / CLAIMS).is_file()):
        raise UserError(f"{folder} has no recorded knowledge: {_RECORD_COMMAND}")
    if not _ended(folder, deployed):
        raise UserError(f"{folder} is a run that did not end: {_RECORD_COMMAND}, or resume it by edgefd serve --resume")
    _check_method(config)
    partition, summary = read_partition(folder), read_summary(folder)
    prepared = prepare(config)
    if deployed:
        _check_proxy(folder, partition, prepared.federation)
    else:
        _check_data(folder, summary, prepared.dataset)
        _check_members(folder, partition, prepared.federation)
    seal = check_seal(folder, config.train.rounds)
    check_complete(folder, config, len(prepared.federation.clients), deployed)
    digest = hashlib.sha256(seal.encode() + read(folder / "summary.json", MAX_FILE)).hexdigest()
    owner = proxy_owners(config, prepared.dataset, prepared.federation)
    return Recording(folder, config, prepared.dataset, prepared.federation, digest, seal, owner, deployed)


def _ended(folder: Path, deployed: bool) -> bool:
    """Whether the last round is recorded; for a simulation, the final models too."""
    if not (folder / "summary.json").is_file():
        return False
    if not deployed:
        return (folder / KNOWLEDGE / "models" / FINAL).is_dir()
    return read_summary(folder).complete


def _check_method(config: Config) -> None:
    method = config.method
    rows_alone = method.label_aggregation and method.answers_queries and not method.server_model
    if method.message is not MessageKind.PROXY_LABELS or not rows_alone:
        raise UserError(
            f"the audit reads soft labels of proxy samples, aggregated row by row; method {method.name} exchanges "
            "other messages or computes its teacher in another way: it cannot be audited yet"
        )


def _check_data(folder: Path, summary: Summary, dataset: Dataset) -> None:
    if summary.data_sha256 != dataset.sha256:
        raise UserError(
            f"{folder} was run on other data than {dataset.source} now holds, so its members are not known: restore "
            "the data of the run, or run it again"
        )


def _check_proxy(folder: Path, partition: Partition, federation: Federation) -> None:
    """Check that the config still gives the proxy set of a coordinator's run, the only data that such a run records."""
    if partition.proxy_sha256 != federation.proxy.sha256:
        raise UserError(
            f"{folder} was run with another proxy set than its config gives now: restore the data of the run"
        )


def _check_members(folder: Path, partition: Partition, federation: Federation) -> None:
    """Check that partition.json lists disjoint members and non-members, and the same ones as the config gives."""
    if len(partition.clients or ()) != len(federation.clients):
        raise UserError(f"{folder}/partition.json does not list the {len(federation.clients)} clients of config.yaml")
    for listed, data in zip(partition.clients or (), federation.clients, strict=True):
        both = set(listed.train_rows or ()) & set(listed.heldout_rows or ())
        if both:
            raise UserError(
                f"{folder}/partition.json: sample {min(both)} is both a member and a non-member of client {data.client}"
            )
        if any(getattr(listed, name) != rows for name, rows in members_of(data).items()):
            raise UserError(f"{folder}/partition.json: members of client {data.client} are not those of config.yaml")


def run_command(recording: Recording) -> str:
    """Return the command that started the recorded run."""
    path = recording.folder / "env.json"
    environment = read_json(path)
    if "command" not in environment:
        raise UserError(f"{path} names no command: {_RECORD_COMMAND} again")
    return str(environment["command"])


def reports(recording: Recording, round: int) -> list[Report]:
    """Return the reports of a round, decoded from the transmitted bytes, without those of clients that dropped out."""
    config, federation = recording.config, recording.federation
    plan = RoundPlan(round, np.arange(len(federation.proxy)))  # the recording does not say which rows were queried
    measured = evaluation_ranges(federation.n_classes, len(federation.x_test))
    expected = expected_report(config.method, terms_of(config, federation), plan, measured)
    ages = range(min(round, largest_age(config.coordinator, closing=False)) + 1)
    found = []
    for client in range(len(recording.federation.clients)):
        path = report_file(recording.folder / KNOWLEDGE, round, client)
        if path.is_file():
            report = _decode(path, lambda blob: _report_of_age(blob, expected, ages))
            if report.client != client:
                raise UserError(f"{path} is the report of client {report.client} in round {report.round}: {_AGAIN}")
            found.append(report)
    return found


def _report_of_age(blob: bytes, expected: ExpectedReport, ages: range) -> Report:
    """Decode a report of the expected round, or of an earlier one if late reports count."""
    for age in ages:
        try:
            return wire.decode_report(blob, replace(expected, round=expected.round - age))
        except UnexpectedContent:
            if age == ages[-1]:
                raise
    raise ValueError("no round was expected")


def teacher_after(recording: Recording, round: int) -> Knowledge:
    """Return the teacher that was aggregated from the reports of a round, as every client received it."""
    expected = expected_teacher_of(recording.config, recording.federation)
    path = round_folder(recording.folder / KNOWLEDGE, round + 1) / TEACHER
    return _decode(path, partial(wire.decode, expected=expected))


def acceptance_weights(recording: Recording) -> Float32:
    """Return the recorded acceptance weights of all clients, float32 [clients, P], before the codec."""
    size = (len(recording.federation.clients), len(recording.federation.proxy))
    path = recording.folder / KNOWLEDGE / CLAIMS
    claims = _decode(path, lambda blob: npz_arrays(blob, _MAX_ARRAYS)).get("claims", np.empty(0))
    if claims.shape != size or claims.dtype != np.float32:
        raise UserError(
            f"{path} does not hold the acceptance weights of {size[0]} clients for {size[1]} rows: {_AGAIN}"
        )
    return claims


def parameters(recording: Recording, name: str, client: int) -> dict[str, np.ndarray]:
    """Return the parameters of a client's model; `name` is "final" or a round in four digits."""
    return _decode(model_file(recording.folder / KNOWLEDGE, name, client), lambda blob: npz_arrays(blob, _MAX_ARRAYS))


def _decode(path: Path, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(read(path, _MAX_ARRAYS))
    except ValueError as error:
        raise UserError(f"{path} is corrupt or missing ({error}): {_RECORD_COMMAND} again") from error
