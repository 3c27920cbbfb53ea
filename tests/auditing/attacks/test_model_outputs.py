"""Outputs of recorded models: an attack sees them after the run's defence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.attacks.model_outputs import received_outputs, received_weights, recorded_learner
from edgefd.auditing.recording.read import open_recording
from edgefd.defences.apply import defence_of
from edgefd.defences.pate import Pate
from edgefd.methods import get_method
from edgefd.selection import selection_of


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


def test_the_method_may_be_an_object_of_a_session(recorded: Path) -> None:
    plain = open_recording(recorded)
    x, client = plain.federation.x_test[:30], plain.federation.clients[2]
    learner = recorded_learner(plain, "0001", client.client)
    method = replace(get_method("edgefd"), name="own")
    own = replace(plain.config, method_name="object:own", objects={"object:own": method})
    outputs = [received_outputs(c, plain.federation, 1, client, learner, x) for c in (plain.config, own)]
    assert np.array_equal(*outputs)


def test_the_noise_of_a_vote_is_that_of_the_whole_proxy_set(recorded: Path) -> None:
    plain = open_recording(recorded)
    federation, client = plain.federation, plain.federation.clients[2]
    learner = recorded_learner(plain, "0001", client.client)
    config = replace(plain.config, defence=Pate(epsilon=1e5))
    some, many = federation.x_test[:30], np.concatenate([federation.x_test] * 4)
    queried = replace(config, selection=selection_of({"name": "random", "budget": 0.5}))
    votes = received_outputs(config, federation, 1, client, learner, some)
    assert np.array_equal(received_outputs(queried, federation, 1, client, learner, some), votes)
    assert len(many) > len(federation.proxy)
    assert np.array_equal(received_outputs(config, federation, 1, client, learner, many)[:30], votes)


@pytest.mark.parametrize(("codec", "error"), [("float32", 0), ("float16", 4e-4), ("uint4", 0.055), ("simplex15", 0.09)])
def test_the_server_receives_weights_as_the_codec_sends_them(codec: str, error: float) -> None:
    weights = np.array([0, 1, 0.8, 0.33, 0.05, 0, 0.0123], np.float32)
    received = received_weights(weights, codec)
    assert np.array_equal(received > 0, weights > 0)
    np.testing.assert_allclose(received, weights, atol=error)
    assert (codec == "float32") == np.array_equal(received, weights)
    assert not received_weights(np.zeros(3, np.float32), codec).any()
    assert np.array_equal(received_weights(np.ones(3, np.float32), codec), np.ones(3, np.float32))


def test_labels_alone_travel_with_weight_one() -> None:
    weights = np.array([0, 0.25, 1], np.float32)
    label_only = defence_of({"name": "label_only"})
    assert received_weights(weights, "float16", label_only).tolist() == [0, 1, 1]
    assert received_weights(weights, "float16").tolist() == [0, 0.25, 1]
