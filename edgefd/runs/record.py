"""Record what each party of a simulation receives, in RUN/knowledge, for `edgefd audit`.

    claims.npz                    float32 [clients, P]: acceptance weight of each client for each proxy row
    rounds/0003/teacher.bin       edgefd.v1.Knowledge: the teacher that every client received in this round (not in 0)
    rounds/0003/reports/2.bin     edgefd.v1.Report: the report of client 2
    models/0003/2.npz             parameters of client 2 after its report, every `record_every` rounds and in the last
    models/final/2.npz            its parameters after the closing distillation: what a holder of its model has
    seals/0003.json               SHA-256 of each file that was written in this round, by its name in this folder; in
                                  the closing round, also those of config.yaml and partition.json

Teachers and reports are the transmitted bytes, laid out as in an exchange folder (`edgefd.wire.exchange_folder`). A
coordinator records teachers, reports and seals only, and coordinator.json, which states that it received nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import put, read, writing
from edgefd.core.npz import npz_bytes, without_prefix
from edgefd.federation.context import ClientContext
from edgefd.learners.learner import Learner
from edgefd.rounds.loop import RoundResult
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import TEACHER, report_file, round_folder

KNOWLEDGE = "knowledge"
CLAIMS = "claims.npz"
COORDINATOR = "coordinator.json"
FINAL = "final"
SEALS = "seals"
SEALED_OF_RUN = ("config.yaml", "partition.json")
"""files of the run folder that the last seal covers"""
_MAX_TEXT = 2**28  # bytes


def record_round(folder: Path, config: Config, clients: Sequence[ClientContext], result: RoundResult) -> None:
    """Write the messages of a round, and the clients' models in the rounds that record them.

    Raises:
        RunError: if a file cannot be written.
    """
    round, files = result.plan.round, _messages(clients[0].terms.codec, result)
    if round == 0:
        files[CLAIMS] = npz_bytes({"claims": np.stack([c.acceptance for c in clients])})
    if round % config.run.record_every == 0 or round >= config.train.rounds - 1:
        name = FINAL if result.plan.closing else f"{round:04d}"
        for client in clients:
            path = model_file(folder, name, client.data.client)
            files[path.relative_to(folder).as_posix()] = npz_bytes(weights_of(client))
    _put_sealed(folder, result, files)


def record_messages(folder: Path, codec: str, result: RoundResult) -> None:
    """Write the messages of a round that a coordinator received. A round repeated after a crash is written again.

    Raises:
        RunError: if a file cannot be written.
    """
    files = _messages(codec, result)
    if result.plan.round == 0:
        files[COORDINATOR] = b'{"recorded_by": "coordinator"}\n'
    with writing(folder):
        for path in (round_folder(folder, result.plan.round) / "reports").glob("*.bin"):
            if path.relative_to(folder).as_posix() not in files:
                path.unlink()  # it was in time before a crash, but not when the round was repeated
    _put_sealed(folder, result, files)


def _messages(codec: str, result: RoundResult) -> dict[str, bytes]:
    """Return the messages of a round by the names of their files."""
    here, round = Path(), result.plan.round
    files = {
        report_file(here, round, report.client).as_posix(): wire.encode_report(report, codec)
        for report in result.exchange.reports
    }
    if result.teacher is not None and not result.plan.closing:  # the teacher of the next round
        files[(round_folder(here, round + 1) / TEACHER).as_posix()] = wire.encode(result.teacher, codec)
    return files


def _put_sealed(folder: Path, result: RoundResult, files: Mapping[str, bytes]) -> None:
    """Write the files of a round, and their digests; the closing round seals the settings of the run too."""
    with writing(folder):
        for name, blob in files.items():
            put(folder / name, blob)
        seal = {name: hashlib.sha256(blob).hexdigest() for name, blob in files.items()}
        if result.plan.closing:
            settings = [name for name in SEALED_OF_RUN if (folder.parent / name).is_file()]
            seal |= {name: hashlib.sha256(read(folder.parent / name, _MAX_TEXT)).hexdigest() for name in settings}
        put(seal_file(folder, result.plan.round), (json.dumps(seal, indent=1) + "\n").encode())


def seal_file(folder: Path, round: int) -> Path:
    """Return the path of a round's seal in the folder of a recording."""
    return folder / SEALS / f"{round:04d}.json"


def model_file(folder: Path, name: str, client: int) -> Path:
    """Return the path of a client's parameters; `name` is "final" or a round of four digits."""
    return folder / "models" / name / f"{client}.npz"


def weights_of(client: ClientContext) -> dict[str, np.ndarray]:
    """Return the parameters and buffers of a client's model, without the optimizer's state, which is never sent."""
    return model_weights(client.learner)


def model_weights(learner: Learner) -> dict[str, np.ndarray]:
    """Return the parameters and buffers of a learner's model, by their names in the module."""
    return without_prefix("model", learner.state())


def check_unrecorded(config: Config, where: str) -> None:
    """Check that the config does not ask to record a run that cannot be recorded.

    Raises:
        UserError: if it does; `where` names the kind of run.
    """
    if config.run.record_knowledge:
        raise UserError(
            f"run.record_knowledge is not supported {where}, only in local simulations and by edgefd serve: remove it"
        )
