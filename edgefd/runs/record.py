"""Record what each party of a simulation receives, in RUN/knowledge, for `edgefd audit`.

    claims.npz                    float32 [clients, P]: acceptance weight of each client for each proxy row
    rounds/0003/teacher.bin       edgefd.v1.Knowledge: the teacher that every client received in this round (not in 0)
    rounds/0003/reports/2.bin     edgefd.v1.Report: the report of client 2
    models/0003/2.npz             parameters of client 2 after its report, every `record_every` rounds and in the last
    models/final/2.npz            its parameters after the closing distillation: what a holder of its model has

Teachers and reports are the transmitted bytes, laid out as in an exchange folder (`edgefd.wire.exchange_folder`). A
coordinator records teachers and reports only, and coordinator.json, which states that it received nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import put, writing
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


def record_round(folder: Path, config: Config, clients: Sequence[ClientContext], result: RoundResult) -> None:
    """Write the messages of a round, and the clients' models in the rounds that record them.

    Raises:
        RunError: if a file cannot be written.
    """
    round = result.plan.round
    with writing(folder):
        if round == 0:
            put(folder / CLAIMS, npz_bytes({"claims": np.stack([c.acceptance for c in clients])}))
        _put_messages(folder, clients[0].terms.codec, result)
        if round % config.run.record_every == 0 or round >= config.train.rounds - 1:
            name = FINAL if result.plan.closing else f"{round:04d}"
            for client in clients:
                put(model_file(folder, name, client.data.client), npz_bytes(weights_of(client)))


def record_messages(folder: Path, codec: str, result: RoundResult) -> None:
    """Write the messages of a round that a coordinator received. A round repeated after a crash is written again.

    Raises:
        RunError: if a file cannot be written.
    """
    with writing(folder):
        if not (folder / COORDINATOR).exists():
            put(folder / COORDINATOR, b'{"recorded_by": "coordinator"}\n')
        counted = {report_file(folder, result.plan.round, report.client) for report in result.exchange.reports}
        for path in (round_folder(folder, result.plan.round) / "reports").glob("*.bin"):
            if path not in counted:  # it was in time before a crash, but not when the round was repeated
                path.unlink()
        _put_messages(folder, codec, result)


def _put_messages(folder: Path, codec: str, result: RoundResult) -> None:
    round = result.plan.round
    for report in result.exchange.reports:
        put(report_file(folder, round, report.client), wire.encode_report(report, codec))
    if result.teacher is not None and not result.plan.closing:  # the teacher of the next round
        put(round_folder(folder, round + 1) / TEACHER, wire.encode(result.teacher, codec))


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
