"""Outputs of recorded models: an attack sees them after the run's defence."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefd.auditing.attacks.model_outputs import received_outputs, recorded_learner
from edgefd.auditing.recording.read import open_recording
from edgefd.defences.apply import defence_of


def test_attacks_see_outputs_after_the_defence(recorded: Path) -> None:
    plain = open_recording(recorded)
    x, clients = plain.federation.x_test[:30], plain.federation.clients
    learner = recorded_learner(plain, "0001", clients[2].client)
    outputs = {}
    for name in ("none", "label_only"):
        config = replace(plain.config, defence=defence_of({"name": name}))
        outputs[name] = received_outputs(config, plain.federation, 1, clients[2], learner, x)
    assert np.array_equal(outputs["label_only"], np.eye(10)[outputs["none"].argmax(1)])
    assert outputs["none"].max() < 1
