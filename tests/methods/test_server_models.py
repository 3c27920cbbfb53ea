"""FedED, CFD and FedDF: the methods with a model at the server."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgefd.core.errors import RunError, UserError
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.methods import cfd, check_devices_can, feddf, feded
from edgefd.wire import messages as wire
from tests.support.votes import Fixed, holder, proxy, report, server, votes


class Bias(Fixed):
    """A learner whose logits are its parameters, for any row."""

    def predict_logits(self, x: np.ndarray) -> np.ndarray:
        return np.tile(self.parameters, (len(x), 1))


LOADED = {"optimizer/m": np.ones(2, np.float32)}


class Recorder(Fixed):
    """A learner that records its training batches."""

    def train(self, batches: object, lr: float) -> float:
        self.batches = list(batches)
        return 0.0


def test_the_server_model_distils_the_mean_and_sends_its_own_labels() -> None:
    model = Recorder(logits=[[0, 0], [1, 0], [0, 0]])
    reports = [report(0, [0, 1], [[0.9, 0.1], [0.6, 0.4]]), report(1, [1], [[0.2, 0.8]])]
    teacher = feded.METHOD.aggregate(server(reports, feded.Config(epochs=1), learner=model))
    (batch,) = model.batches
    order = batch.x[:, 0].argsort()
    np.testing.assert_allclose(batch.targets[order], [[0.9, 0.1], [0.4, 0.6]], rtol=1e-6)
    assert teacher.ids.tolist() == [0, 1]
    np.testing.assert_allclose(teacher.values[:, 0], [0.5, 1 / (1 + np.exp(-1))], rtol=1e-6)


def test_the_server_model_distils_for_the_configured_epochs() -> None:
    model = Recorder(logits=[[0, 0]] * 3)
    feded.METHOD.aggregate(server([report(0, [0], [[1, 0]])], feded.Config(epochs=4), learner=model))
    assert len(model.batches) == 4


def test_cfd_sends_four_bits_for_ten_classes() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (1000, 10)).astype(np.float32)
    client, ids = holder(0, Fixed(logits=logits.tolist())), np.arange(1000)
    k = cfd.METHOD.upload(
        replace(
            client,
            proxy=proxy(1000),
            acceptance=np.ones(1000, np.float32),
            plan=RoundPlan(0, ids),
            terms=replace(client.terms, n_classes=10),
        )
    )
    assert np.array_equal(k.ids, ids)
    assert np.array_equal(k.values.argmax(1), logits.argmax(1))
    assert len(wire.encode(k, "float16")) == pytest.approx(1000 * (1 + 0.5), abs=20)  # a byte for each id


@pytest.mark.parametrize("ensemble", ["probabilities", "logits"])
def test_feddf_distils_the_ensemble_into_the_mean_of_parameters(ensemble: Any) -> None:
    model = Bias(parameters=[0, 0])
    trained = []
    model.train = lambda batches, lr: trained.extend((b, model.parameters.copy(), lr) for b in batches) or 0.0
    reset = []
    model.load_state = lambda state: reset.append(state["optimizer/m"]) or Bias.load_state(model, state | LOADED)
    k = [votes([0], [[3.0, 0.0]]), votes([0], [[0.0, 1.0]])]
    reports = [
        Report(c, 0, type(u)(u.ids, u.values, w)) for c, (u, w) in enumerate(zip(k, ([0.3], [0.1]), strict=True))
    ]
    teacher = feddf.METHOD.aggregate(server(reports, feddf.Config(ensemble, steps=3, lr=0.1), learner=model))
    assert [lr for _, _, lr in trained] == pytest.approx([0.1, 0.075, 0.025])  # 0.1 (1 + cos(pi i / 3)) / 2
    batch, start, _ = trained[0]
    np.testing.assert_allclose(start, [2.25, 0.25], rtol=1e-6)  # weighted by samples, 3 to 1
    first, second, mean_logits = (1 / (1 + np.exp(-z)) for z in (3.0, -1.0, 1.5 - 0.5))
    expected = mean_logits if ensemble == "logits" else (first + second) / 2  # not weighted
    np.testing.assert_allclose(batch.targets[:, 0], np.full(3, expected), rtol=1e-6)
    assert (reset[-1] == 0).all(), "the optimizer is new in each round"
    np.testing.assert_allclose(teacher.values, [[2.25, 0.25]], rtol=1e-6)


@pytest.mark.parametrize("method", [feded.METHOD, cfd.METHOD, feddf.METHOD])
def test_devices_and_servers_without_a_model_refuse_methods_with_a_server_model(method: object) -> None:
    with pytest.raises(UserError, match="it runs in simulations"):
        check_devices_can(method, method.config())
    with pytest.raises(RunError, match="needs a model at the server"):
        method.aggregate(server([report(0, [0], [[1, 0]])], method.config()))
