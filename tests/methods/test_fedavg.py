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
from edgefd.methods import check_devices_can, fedavg, fedprox, get_method
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


@pytest.mark.parametrize("n", [7, 600, 54_000, 10**6])
def test_a_weight_of_many_samples_survives_float16(n: int) -> None:
    sent = METHOD.upload(holder(0, Fixed(parameters=[1, 2]), n=n))
    decoded = sent_and_received(sent, "float16")
    assert decoded.weights[0] * 10**6 == pytest.approx(n, rel=0.005)


def test_parameters_of_another_model_are_refused() -> None:
    sent = METHOD.upload(holder(0, Fixed(parameters=[1, 2])))
    with pytest.raises(RunError, match="2 parameters was sent, this one has 3"):
        METHOD.distillation_targets(holder(1, Fixed(parameters=[1, 2, 3])), sent)


def trained(method: Method, steps: int, lr: float, config: object = None) -> np.ndarray:
    """Return the parameters after local steps, each of which adds the learning rate to both parameters."""
    learner = Fixed(parameters=[1.0, 1.0])
    batch = labelled(np.zeros((1, 1), np.float32), np.zeros(1, int), 2)
    client = holder(0, learner, config)
    terms = dataclasses.replace(client.terms, training=Training(lr=lr, final_lr=lr))
    method.local_step(dataclasses.replace(client, terms=terms), [batch] * steps)
    assert learner.steps == steps
    return learner.parameters


def test_fedprox_moves_towards_the_sent_parameters_after_every_step() -> None:
    # 1 -> 1.5 -> (1.5 + 1) / 2 = 1.25 -> 1.75 -> (1.75 + 1) / 2 = 1.375
    np.testing.assert_allclose(trained(fedprox.METHOD, 2, 0.5, fedprox.Config(mu=2.0)), [1.375, 1.375])


def test_fedprox_with_mu_zero_is_fedavg() -> None:
    without_pull = trained(fedprox.METHOD, 3, 0.1, fedprox.Config(mu=0.0))
    assert np.array_equal(without_pull, trained(METHOD, 3, 0.1))


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
