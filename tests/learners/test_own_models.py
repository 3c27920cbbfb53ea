"""Models from a user's own module: runs with them, and errors in them."""

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
    result = list(simulate(open_transport(c, prepare(c).federation)))[-1].accuracy_per_client
    assert result is not None
    return list(result)


def test_an_own_model_trains_with_named_models_and_has_the_same_results_in_workers() -> None:
    assert accuracies(0) == accuracies(2)


def test_an_own_model_runs_without_recorded_steps_and_predicts_in_evaluation_mode() -> None:
    c = config("tests.support.own_models:Noisy")
    site = make_simulation_state(c, prepare(c).federation)
    learner, x = site.clients[0].learner, site.federation.x_test[:9]
    assert learner._recorded_steps is None  # type: ignore[attr-defined]
    assert (learner.predict_logits(x) == learner.predict_logits(x)).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.support.own_models:wide", r"must return logits \[n, 10\], but for 2 samples it returned \[2, 11\]"),
        ("tests.support.own_models:fixed", r"fails on samples of shape \[1, 28, 28\]: RuntimeError: mat1"),
        ("tests.support.own_models:number", "must return a torch.nn.Module, but it returned 10"),
        ("tests.support.own_models:broken", "cannot build model .*: RuntimeError: no weights found"),
        ("tests.support.own_models:untrained", "has no parameters to train"),
        ("tests.support.own_models:Two", r"must return logits \[n, 10\], but for 2 samples it returned tuple"),
        ("tests.support.own_models:Missing", "cannot load model .*: AttributeError"),
        ("no_such_package.models:Net", "cannot load model .*: ModuleNotFoundError"),
        ("tests.support.own_models:", "must look like package.module:ATTRIBUTE"),
    ],
)
def test_an_error_in_an_own_model_is_reported_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_model(name, (1, 28, 28), 10)
    assert "\n" not in str(caught.value)
