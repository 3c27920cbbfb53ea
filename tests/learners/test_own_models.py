"""A user's own torch module in a run."""

import pytest

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.learners.models import check_model
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import make_simulation_state, open_transport, simulate


def config(model: object, workers: int = 0):  # type: ignore[no-untyped-def]
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": 4},
            "model": model,
            "train": {"rounds": 2},
            "run": {"workers": workers},
        }
    )


def accuracies(workers: int) -> list[float]:
    c = config(["tests.support.own_models:Noisy", "cnn_small"], workers)
    found = list(simulate(open_transport(c, prepare(c).federation)))[-1].accuracy_per_client
    assert found is not None
    return list(found)


def test_it_trains_beside_named_models_and_repeats_whoever_does_the_work() -> None:
    assert accuracies(0) == accuracies(2)


def test_it_runs_without_tapes_and_predicts_as_it_is_used() -> None:
    c = config("tests.support.own_models:Noisy")
    site = make_simulation_state(c, prepare(c).federation)
    learner, x = site.clients[0].learner, site.federation.x_test[:9]
    assert learner._recorded_steps is None  # type: ignore[attr-defined]
    assert (learner.predict_logits(x) == learner.predict_logits(x)).all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tests.support.own_models:wide", r"must give logits \[n, 10\]; for 2 samples it gave \[2, 11\]"),
        ("tests.support.own_models:fixed", r"fails on samples of shape \[1, 28, 28\]: RuntimeError: mat1"),
        ("tests.support.own_models:number", "must be a torch.nn.Module or a function that makes one, not 10"),
        ("tests.support.own_models:broken", "cannot make model .*: RuntimeError: no weights found"),
        ("tests.support.own_models:untrained", "has no parameters to train"),
        ("tests.support.own_models:Two", r"must give logits \[n, 10\]; for 2 samples it gave tuple"),
        ("tests.support.own_models:Missing", "cannot make model .*: AttributeError"),
        ("no_such_package.models:Net", "cannot make model .*: ModuleNotFoundError"),
        ("tests.support.own_models:", "must look like package.module:Factory"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_model(name, (1, 28, 28), 10)
    assert "\n" not in str(caught.value)
