"""One run with canaries planted by coin: what it shows of the epsilon of the clients' training (Steinke et al. 2023).

Each client is given fresh records of its classes with a wrong label, at most a tenth of its private records on average;
whether it trains on one is a coin of that record's own. The federation is run once. The server then puts all canaries
among the proxy samples and reads the probability of the wrong label; a holder asks the final model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefd.audit.attacks.membership import Control, Scores
from edgefd.audit.attacks.model_outputs import arrived, recorded_learner
from edgefd.audit.attacks.rerun import of_own, rerun, rerun_config
from edgefd.audit.measures import attack_scores as attacks
from edgefd.audit.recording.candidates import LEAST, fresh_rows
from edgefd.audit.recording.read import Recording
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, Federation
from edgefd.learners.batches import softmax
from edgefd.runs.record import FINAL

ATTACKS = ("planted",)
_SHARE = 0.1  # of private records that canaries are, on average


def planted_signals(recording: Recording) -> Arrays:
    """What the run with canaries says of them, and what the recorded run does, which saw none.

    Returns:
        `sent`, `final` float32 [k]: of each canary's own client the probability of its wrong label; `acceptance` float32
        [k]; `null_sent`, `null_final`: of the recorded run; `client` int64 [k], `member` bool [k].
    """
    config, federation = recording.config, recording.federation
    x, y, client, member = canaries(federation, config.seed)
    changed = planted(federation, x, y, client, member)
    found = rerun(rerun_config(config, len(federation.clients), 1_000_000), changed, x, students=False)
    n = np.arange(len(y))
    out: Arrays = {"client": client, "member": member, "claims": found.acceptance[client, n]}
    out |= {"sent": of_own(found.sent, client, y), "final": of_own(found.final, client, y)}
    last = f"{recording.model_rounds[-1]:04d}"
    sent = [
        arrived(config, federation, recording.model_rounds[-1], c, recorded_learner(recording, last, c.client), x)
        for c in federation.clients
    ]
    final = [softmax(recorded_learner(recording, FINAL, c.client).predict_logits(x)) for c in federation.clients]
    return out | {"null_sent": of_own(np.stack(sent), client, y), "null_final": of_own(np.stack(final), client, y)}


def too_few(federation: Federation, seed: int) -> str | None:
    """Why nothing can be said of planted canaries, if there are not enough records for them."""
    n = sum(len(rows) for rows in fresh_rows(federation, seed, _SHARE))
    return None if n >= 4 * LEAST else f"there are {n} fresh records to plant, {4 * LEAST} are needed"


def canaries(federation: Federation, seed: int) -> tuple[Float32, Int64, Int64, Bool]:
    """Fresh records, a wrong label for each, whose canary it is, and by a coin whether that client trains on it."""
    dealt = fresh_rows(federation, seed, _SHARE)
    rows = np.concatenate(dealt)
    client = np.repeat(np.arange(len(dealt)), [len(d) for d in dealt])
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.PLANTED_CANARIES)
    wrong = (federation.y_test[rows] + rng.integers(1, federation.n_classes, len(rows))) % federation.n_classes
    return federation.x_test[rows], wrong, client, rng.random(len(rows)) < 0.5


def planted(federation: Federation, x: Float32, y: Int64, client: Int64, member: Bool) -> Federation:
    """The federation whose clients also train on their canaries."""

    def with_canaries(data: ClientData) -> ClientData:
        mine = member & (client == data.client)
        return replace(
            data,
            x=np.concatenate([data.x, x[mine]]),
            y=np.concatenate([data.y, y[mine]]),
            rows=None,
            heldout_rows=None,
        )

    return replace(federation, clients=tuple(with_canaries(data) for data in federation.clients))


def planted_scores(p: Arrays, round: int, adversaries: tuple[str, ...]) -> list[Scores]:
    """The log of the wrong label's probability, for canaries planted by coin; `p` are `planted.planted_signals`."""
    out = []
    if "server" in adversaries:
        values = attacks.log_odds(p["sent"])
        values = np.where(p["claims"] > 0, values, values.min() - 1)
        out.append(Scores("planted", "server", values, p["client"], p["member"], round))
    if "holder" in adversaries:
        out.append(Scores("planted", "holder", attacks.log_odds(p["final"]), p["client"], p["member"]))
    return out


def planted_controls(s: Arrays, p: Arrays) -> tuple[Control, Control]:
    """Null: the recorded run, which saw no canary, with the same coins. Positive: the model that memorised some."""
    memorised = attacks.log_odds(attacks.of_label(s["canary"], s["canary_y"]))
    return {"planted": (attacks.log_odds(p["null_sent"]), p["member"])}, {"planted": (memorised, s["canary_member"])}
