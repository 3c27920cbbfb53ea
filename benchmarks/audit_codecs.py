"""Membership AUC of the server in each codec, for the models and filters of one recorded run.

    edgefd simulate CONFIG codec.name=float32 run.record_knowledge=true --out RUN
    python -m benchmarks.audit_codecs RUN

The models of the last recorded round and the filters are the same in every row: rows differ in the rounding of what is
sent alone. `loss` and `coop_lira` read soft labels, `weight` reads the acceptance weights of canaries
(`edgefd audit` explains the attacks). Brackets hold 95 % intervals.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefd.auditing.attacks import membership
from edgefd.auditing.attacks.filter_canaries import filter_signals
from edgefd.auditing.attacks.model_outputs import received_outputs, received_weights, recorded_learner
from edgefd.auditing.measures.statistics import auc
from edgefd.auditing.recording.candidates import Candidates, choose
from edgefd.auditing.recording.read import Recording, open_recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.config.schema import CodecChoice

CODECS = ("float32", "float16", "int8", "uint8", "uint4", "simplex15")
ATTACKS = ("loss", "coop_lira")


def in_codec(recording: Recording, codec: str) -> Recording:
    """Return a recording whose messages would be sent in another codec."""
    return replace(recording, config=replace(recording.config, codec=CodecChoice(codec)))


def by_outputs(recording: Recording, candidates: Candidates) -> list[membership.Scores]:
    """Return the scores of the attacks on soft labels, as the server receives those of the last recorded round."""
    round, clients = recording.model_rounds[-1], recording.federation.clients
    learners = [recorded_learner(recording, f"{round:04d}", data.client) for data in clients]
    sent = [
        received_outputs(recording.config, recording.federation, round, data, learner, candidates.x)
        for data, learner in zip(clients, learners, strict=True)
    ]
    signals: Arrays = {
        "rounds": np.array([round]),
        "claims": np.ones((len(clients), len(candidates.y)), np.float32),
        "sent": np.stack(sent)[None],
        "sent_z": np.empty(0),
        **{name: getattr(candidates, name) for name in ("y", "client", "member")},
    }
    return membership.server_scores(signals, ATTACKS)


def main(folder: Path) -> None:
    """Print a Markdown table with a row for each codec."""
    recording = open_recording(folder)
    candidates, _ = choose(recording.federation, recording.config.seed)
    exact = filter_signals(in_codec(recording, "float32"))
    print(f"| codec | {' | '.join((*ATTACKS, 'weight'))} |\n|{' --- |' * (len(ATTACKS) + 2)}")
    for codec in CODECS:
        weights = {name: received_weights(exact[name], codec) for name in ("inside", "outside")}
        scores = by_outputs(in_codec(recording, codec), candidates)
        scores += membership.filter_scores(exact | weights, ("weight",))
        areas = {s.attack: auc(s.values[s.member], s.values[~s.member]) for s in scores}
        cells = [
            f"{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]" if (a := areas.get(name)) else "-"
            for name in (*ATTACKS, "weight")
        ]
        print(f"| {codec} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
