"""FedAvg and FedProx: averages of parameters, and where they are refused."""

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.core.errors import RunError, UserError
from edgefd.learners.batches import labelled
from edgefd.methods import check_devices_can, fedavg, fedprox, get_method
from edgefd.wire import messages as wire
from tests.support.votes import Fixed, holder, plan, proxy

METHOD = fedavg.METHOD


def test_parameters_are_averaged_by_number_of_samples() -> None:
    clients = [holder(0, Fixed(parameters=[1, 2, 3]), n=30), holder(1, Fixed(parameters=[5, 6, 7]), n=10)]
    sent = [METHOD.upload(c, proxy(3), plan(3), None) for c in clients]
    assert [len(k) for k in sent] == [1, 1]
    teacher = METHOD.aggregate(sent, None)
    np.testing.assert_allclose(teacher.values, [[2, 3, 4]], rtol=1e-6)
    assert len(METHOD.personalise_teacher(teacher, clients[0], proxy(3), None)) == 0
    np.testing.assert_allclose(clients[0].learner.parameters, [2, 3, 4], rtol=1e-6)


@pytest.mark.parametrize("n", [7, 600, 54_000, 10**6])
def test_a_weight_of_many_samples_survives_float16(n: int) -> None:
    sent = METHOD.upload(holder(0, Fixed(parameters=[1, 2]), n=n), proxy(3), plan(3), None)
    decoded = wire.decode(wire.encode(sent, "float16"))
    assert decoded.weights[0] * 10**6 == pytest.approx(n, rel=0.005)


def test_parameters_of_another_model_are_refused() -> None:
    sent = METHOD.upload(holder(0, Fixed(parameters=[1, 2])), proxy(3), plan(3), None)
    with pytest.raises(RunError, match="2 parameters was sent, this one has 3"):
        METHOD.personalise_teacher(sent, holder(1, Fixed(parameters=[1, 2, 3])), proxy(3), None)


def test_fedprox_moves_towards_the_sent_parameters_after_every_step() -> None:
    learner = Fixed(parameters=[1.0, 1.0])
    batch = labelled(np.zeros((1, 1), np.float32), np.zeros(1, int), 2)
    fedprox.METHOD.train(learner, [batch, batch], 0.5, fedprox.Config(mu=2.0))
    # 1 -> 1.5 -> (1.5 + 1) / 2 = 1.25 -> 1.75 -> (1.75 + 1) / 2 = 1.375
    np.testing.assert_allclose(learner.parameters, [1.375, 1.375])


def test_fedprox_with_mu_zero_is_fedavg() -> None:
    a, b = Fixed(parameters=[1.0, 1.0]), Fixed(parameters=[1.0, 1.0])
    batch = labelled(np.zeros((1, 1), np.float32), np.zeros(1, int), 2)
    fedprox.METHOD.train(a, [batch] * 3, 0.1, fedprox.Config(mu=0.0))
    METHOD.train(b, [batch] * 3, 0.1, None)
    assert np.array_equal(a.parameters, b.parameters)


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
