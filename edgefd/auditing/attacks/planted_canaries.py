"""Bound the epsilon of the clients' training from below by one run with planted canaries (Steinke et al. 2023).

Each client receives fresh records of its classes with a wrong label, at most a tenth of its private records on average;
for each record, an independent coin decides whether the client trains on it. The federation is run once. The server
then puts all canaries among the proxy samples and reads the probability of the wrong label; a holder queries the final
model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefd.auditing.attacks.membership import Control, Scores
from edgefd.auditing.attacks.model_outputs import received_outputs, recorded_learner
from edgefd.auditing.attacks.rerun import label_probability, rerun, rerun_config
from edgefd.auditing.measures import membership_formulas as formulas
from edgefd.auditing.recording.candidates import LEAST, fresh_rows
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, Federation
from edgefd.learners.batches import softmax
from edgefd.runs.record import FINAL

ATTACKS = ("planted",)
_SHARE = 0.1  # number of canaries a client trains on, as a share of its private records, on average


def planted_signals(recording: Recording) -> Arrays:
    """Return the outputs on canaries of the run with canaries, and of the recorded run, which saw none.

    Returns:
        `sent`, `final` float32 [k]: probability that each canary's client gives to its wrong label; `claims` float32
        [k]: acceptance weights; `null_sent`, `null_final`: of the recorded run; `client` int64 [k], `member` bool [k].
    """
    config, federation = recording.config, recording.federation
    x, y, client, member = canaries(federation, config.seed)
    changed = planted(federation, x, y, client, member)
    outputs = rerun(rerun_config(config, len(federation.clients), 1_000_000), changed, x, students=False)
    n = np.arange(len(y))
    signals: Arrays = {"client": client, "member": member, "claims": outputs.acceptance[client, n]}
    signals |= {
        "sent": label_probability(outputs.sent, client, y),
        "final": label_probability(outputs.final, client, y),
    }
    last = f"{recording.model_rounds[-1]:04d}"
    sent = [
        received_outputs(
            config, federation, recording.model_rounds[-1], c, recorded_learner(recording, last, c.client), x
        )
        for c in federation.clients
    ]
    final = [softmax(recorded_learner(recording, FINAL, c.client).predict_logits(x)) for c in federation.clients]
    return signals | {
        "null_sent": label_probability(np.stack(sent), client, y),
        "null_final": label_probability(np.stack(final), client, y),
    }


def too_few(federation: Federation, seed: int) -> str | None:
    """Return the reason if there are too few records for planted canaries, else None."""
    n = sum(len(rows) for rows in fresh_rows(federation, seed, _SHARE))
    return None if n >= 4 * LEAST else f"there are {n} fresh records to plant, {4 * LEAST} are needed"


def canaries(federation: Federation, seed: int) -> tuple[Float32, Int64, Int64, Bool]:
    """Draw fresh records, a wrong label for each, the client of each, and whether that client trains on it."""
    assigned = fresh_rows(federation, seed, _SHARE)
    rows = np.concatenate(assigned)
    client = np.repeat(np.arange(len(assigned)), [len(ids) for ids in assigned])
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.PLANTED_CANARIES)
    wrong = (federation.y_test[rows] + rng.integers(1, federation.n_classes, len(rows))) % federation.n_classes
    return federation.x_test[rows], wrong, client, rng.random(len(rows)) < 0.5


def planted(federation: Federation, x: Float32, y: Int64, client: Int64, member: Bool) -> Federation:
    """Return the federation whose clients also train on their canaries."""

    def with_canaries(data: ClientData) -> ClientData:
        of_client = member & (client == data.client)
        return replace(
            data,
            x=np.concatenate([data.x, x[of_client]]),
            y=np.concatenate([data.y, y[of_client]]),
            rows=None,
            heldout_rows=None,
        )

    return replace(federation, clients=tuple(with_canaries(data) for data in federation.clients))


def planted_scores(signals: Arrays, round: int, adversaries: tuple[str, ...]) -> list[Scores]:
    """Score canaries by the log odds of their wrong label; `signals` are those of `planted_signals`."""
    scores = []
    if "server" in adversaries:
        values = formulas.log_odds(signals["sent"])
        values = np.where(signals["claims"] > 0, values, values.min() - 1)
        scores.append(Scores("planted", "server", values, signals["client"], signals["member"], round))
    if "holder" in adversaries:
        scores.append(
            Scores("planted", "holder", formulas.log_odds(signals["final"]), signals["client"], signals["member"])
        )
    return scores


def planted_controls(models: Arrays, signals: Arrays) -> tuple[Control, Control]:
    """Return the controls. Null: the recorded run, which saw no canary. Positive: a model that memorised canaries."""
    memorised = formulas.log_odds(formulas.of_label(models["canary"], models["canary_y"]))
    return {"planted": (formulas.log_odds(signals["null_sent"]), signals["member"])}, {
        "planted": (memorised, models["canary_member"])
    }
