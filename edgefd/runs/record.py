"""What each party of a simulation sees, kept in RUN/knowledge for `edgefd audit`.

    claims.npz                    float32 [clients, P]: how surely each client answers for each proxy row
    rounds/0003/teacher.bin       edgefd.v1.Knowledge: what every client was sent in this round (none in round 0)
    rounds/0003/reports/2.bin     edgefd.v1.Report: what client 2 sent
    models/0003/2.npz             client 2's parameters after its answer, every `record_every` rounds and in the last
    models/final/2.npz            and at the end, after the closing distillation: what a holder of its model has

Teachers and reports are the bytes that travel, laid out as in an exchange folder (`edgefd.wire.exchange_folder`). A coordinator keeps
those alone, and coordinator.json, which says that it has seen nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import npz_bytes, put, writing
from edgefd.federation.state import ClientState
from edgefd.rounds.loop import RoundResult
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import TEACHER, report_file, round_folder

KNOWLEDGE = "knowledge"
CLAIMS = "claims.npz"
COORDINATOR = "coordinator.json"
FINAL = "final"


def record_round(folder: Path, config: Config, clients: Sequence[ClientState], result: RoundResult) -> None:
    """Write what was exchanged in a round, and the models where their turn has come.

    Raises:
        RunError: if it cannot be written.
    """
    round = result.plan.round
    with writing(folder):
        if round == 0:
            put(folder / CLAIMS, npz_bytes({"claims": np.stack([c.acceptance for c in clients])}))
        _put_messages(folder, config, result)
        if round % config.run.record_every == 0 or round >= config.train.rounds - 1:
            name = FINAL if result.plan.closing else f"{round:04d}"
            for client in clients:
                put(model_file(folder, name, client.data.client), npz_bytes(weights_of(client)))


def record_messages(folder: Path, config: Config, result: RoundResult) -> None:
    """Write what a coordinator sees of a round. A round that is done again after a crash is written again.

    Raises:
        RunError: if it cannot be written.
    """
    with writing(folder):
        if not (folder / COORDINATOR).exists():
            put(folder / COORDINATOR, b'{"recorded_by": "coordinator"}\n')
        counted = {report_file(folder, result.plan.round, report.client) for report in result.exchange.reports}
        for path in (round_folder(folder, result.plan.round) / "reports").glob("*.bin"):
            if path not in counted:  # it was in time before a crash, and when the round was done again it was not
                path.unlink()
        _put_messages(folder, config, result)


def _put_messages(folder: Path, config: Config, result: RoundResult) -> None:
    codec, round = config.codec.name, result.plan.round
    for report in result.exchange.reports:
        put(report_file(folder, round, report.client), wire.encode_report(report, codec))
    if result.teacher is not None and not result.plan.closing:  # what the next round begins with
        put(round_folder(folder, round + 1) / TEACHER, wire.encode(result.teacher, codec))


def model_file(folder: Path, name: str, client: int) -> Path:
    """Where a client's parameters go; `name` is "final" or a round of four digits."""
    return folder / "models" / name / f"{client}.npz"


def weights_of(client: ClientState) -> dict[str, np.ndarray]:
    """Parameters and buffers of a client's model, without what the optimizer remembers: that never leaves."""
    return {k.removeprefix("model/"): v for k, v in client.learner.state().items() if k.startswith("model/")}


def check_unrecorded(config: Config, where: str) -> None:
    """Whether a run that cannot be recorded is not asked to be.

    Raises:
        UserError: if it is.
    """
    if config.run.record_knowledge:
        raise UserError(
            f"run.record_knowledge: messages are recorded by local simulations and by edgefd server, not {where}"
        )
