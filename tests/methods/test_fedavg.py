"""FedAvg and FedProx: averages of parameters, and where they are refused."""

import dataclasses

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.core.errors import RunError, UserError
from edgefd.federation.method import Method
from edgefd.federation.report import Report
from edgefd.federation.training import Training
from edgefd.learners.batches import labelled
from edgefd.learners.models import build_model
from edgefd.learners.torch_learner import TorchLearner
from edgefd.methods import check_devices_can, fedavg, fedprox, get_method
from edgefd.rounds.client import client_round
from tests.support.expectations import sent_and_received
from tests.support.votes import Fixed, holder, server

METHOD = fedavg.METHOD


def test_parameters_are_averaged_by_number_of_samples() -> None:
    clients = [holder(0, Fixed(parameters=[1, 2, 3]), n=30), holder(1, Fixed(parameters=[5, 6, 7]), n=10)]
    reports = [Report(c.data.client, 0, METHOD.upload(c)) for c in clients]
    assert [len(r.knowledge) for r in reports] == [1, 1]
    teacher = METHOD.aggregate(server(reports))
    np.testing.assert_allclose(teacher.values, [[2, 3, 4]], rtol=1e-6)
    assert len(METHOD.distillation_targets(clients[0], teacher)) == 0
    np.testing.assert_allclose(clients[0].learner.parameters, [2, 3, 4], rtol=1e-6)
    assert not clients[0].learner.moments.any()  # the optimizer of a client is fresh in each round


@pytest.mark.parametrize("n", [7, 600, 54_000, 10**6])
def test_a_weight_of_many_samples_survives_float16(n: int) -> None:
    sent = METHOD.upload(holder(0, Fixed(parameters=[1, 2]), n=n))
    decoded = sent_and_received(sent, "float16")
    assert decoded.weights[0] * 10**6 == pytest.approx(n, rel=0.005)


def test_parameters_of_another_model_are_refused() -> None:
    sent = METHOD.upload(holder(0, Fixed(parameters=[1, 2])))
    with pytest.raises(RunError, match="2 parameters was sent, this one has 3"):
        METHOD.distillation_targets(holder(1, Fixed(parameters=[1, 2, 3])), sent)


def train_locally(method: Method, config: object, steps: int) -> tuple[TorchLearner, dict[str, np.ndarray]]:
    """Train a linear model on private samples of one class; return its learner, and its state before."""
    learner = TorchLearner(build_model("linear", (4,), 2, 0), "sgd")
    sent = learner.state()
    rng = np.random.default_rng(0)
    batches = [labelled(rng.standard_normal((8, 4), np.float32), np.zeros(8, int), 2) for _ in range(steps)]
    client = holder(0, learner, config)
    terms = dataclasses.replace(client.terms, training=Training(lr=0.1, final_lr=0.1, optimizer="sgd"))
    method.local_step(dataclasses.replace(client, terms=terms), batches)
    return learner, sent


def distance(learner: TorchLearner, sent: dict[str, np.ndarray]) -> float:
    changes = [value - sent[name] for name, value in learner.state().items() if name.startswith("model/")]
    return float(np.sqrt(sum((change**2).sum() for change in changes)))


def test_fedprox_pulls_towards_the_sent_parameters() -> None:
    learner = Fixed(parameters=[1.0, 1.0])
    client = holder(0, learner, fedprox.Config(mu=0.7))
    fedprox.METHOD.local_step(client, [labelled(np.zeros((1, 1), np.float32), np.zeros(1, int), 2)] * 3)
    assert learner.steps == 3
    assert learner.proximal.mu == 0.7
    assert [learner.proximal.centre[f"model/{name}"].item() for name in "ab"] == [1.0, 1.0]  # those of the start


def test_fedprox_with_mu_zero_is_fedavg() -> None:
    (a, _), (b, _) = train_locally(fedprox.METHOD, fedprox.Config(mu=0.0), 20), train_locally(METHOD, None, 20)
    assert all(np.array_equal(value, b.state()[name]) for name, value in a.state().items())


def test_fedprox_with_mu_one_stays_much_nearer_to_the_sent_parameters_than_fedavg() -> None:
    prox, plain = train_locally(fedprox.METHOD, fedprox.Config(mu=1.0), 50), train_locally(METHOD, None, 50)
    assert 0 < distance(*prox) < 0.5 * distance(*plain)


def test_a_setting_of_the_config_gives_clients_a_fresh_optimizer_in_each_round() -> None:
    def moments(reset: bool) -> np.ndarray:
        client = holder(0, Fixed(logits=[[0.0, 0.0]] * 3, parameters=[1.0, 1.0]))
        terms = dataclasses.replace(client.terms, training=Training(local_steps=1, reset_optimizer=reset))
        client_round(get_method("fedmd"), dataclasses.replace(client, terms=terms), None)
        return client.learner.moments

    assert moments(False).all()
    assert not moments(True).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": {"name": "uint8"}}, "uint8 carries numbers from 0 to 1, but method fedavg"),
        ({"model": [{"name": "cnn"}, {"name": "mlp"}]}, "all clients need the same model"),
        ({"aggregator": {"name": "median"}}, "method fedavg has its own aggregation rule"),
        ({"attack": {"name": "random", "fraction": 0.2}}, "method fedavg sends other messages"),
    ],
)
@pytest.mark.parametrize("where", ["method", "baselines"])
def test_configs_that_do_not_fit_fedavg_are_refused(settings: dict[str, object], message: str, where: str) -> None:
    chosen = {"method": {"name": "fedavg"}} if where == "method" else {"baselines": ["fedavg"]}
    with pytest.raises(UserError, match=message):
        parse_config({**chosen, **settings})


def test_devices_refuse_fedavg_but_not_fkd() -> None:
    with pytest.raises(
        UserError, match="fedavg exchanges parameters, but devices exchange only predictions: it runs in simulations"
    ):
        check_devices_can(get_method("fedavg"), None)
    check_devices_can(get_method("fkd"), None)
