"""Modules of a user: the same bits in every process, batches of one row, random numbers, and errors in them."""

import random

import numpy as np
import pytest
import torch

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.learners.batches import Batch, softmax
from edgefd.learners.models import build_model, check_model
from edgefd.learners.torch_learner import TorchLearner
from edgefd.methods._parameters import parameters, set_parameters
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import make_simulation_state, open_transport, simulate

SHAPE, CLASSES = (1, 6, 6), 4
WORKING = (
    *("CountsInBuffers", "DrawsEverywhere", "cumulative", "batch_norm", "dropout", "scripted", "lazy", "frozen"),
    *("Volume", "Double", "tied", "Noisy"),
)


def own(name: str) -> str:
    return f"tests.support.own_models:{name}"


def config(model: object, workers: int = 0, **train: int):  # type: ignore[no-untyped-def]
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 200},
            "partition": {"name": "weak", "n_clients": 4},
            "model": model,
            "train": {"rounds": 3, "local_steps": 2, "batch_size": 16, "private_rows_per_batch": 4} | train,
            "run": {"workers": workers},
        }
    )


def final_states(c: Config) -> list[dict[str, np.ndarray]]:
    transport = open_transport(c, prepare(c).federation)
    list(simulate(transport))
    return [client.learner.state() for client in transport.state.clients]


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def batches(*sizes: int) -> list[Batch]:
    rng = np.random.default_rng(3)
    x, logits = [rng.random((n, *SHAPE), np.float32) for n in sizes], [rng.random((n, CLASSES)) for n in sizes]
    return [
        Batch(a, softmax(b.astype(np.float32)), np.ones(len(a), np.float32)) for a, b in zip(x, logits, strict=True)
    ]


@pytest.mark.parametrize("name", WORKING)
def test_a_run_has_the_same_bits_for_any_number_of_workers(name: str) -> None:
    serial, *forked = (final_states(config([own(name), "cnn_small"], workers)) for workers in (0, 2, 3))
    for states in forked:
        assert all(map(same_bits, serial, states))


@pytest.mark.slow
def test_a_compiled_module_has_the_same_bits_for_any_number_of_workers() -> None:
    serial, forked = (final_states(config(own("compiled"), workers)) for workers in (0, 2))
    assert all(map(same_bits, serial, forked))


@pytest.mark.parametrize("name", WORKING)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_another_learner_continues_from_the_state(name: str, optimizer: str) -> None:
    first, second = (TorchLearner(build_model(own(name), SHAPE, CLASSES, seed), optimizer) for seed in (0, 1))
    first.train(batches(5, 1, 3), 0.01)
    second.load_state(first.state())
    for learner in (first, second):
        learner.set_noise(3, 4)
        learner.train(batches(4, 4), 0.01)
    assert same_bits(first.state(), second.state())
    assert np.array_equal(first.predict_logits(batches(7)[0].x), second.predict_logits(batches(7)[0].x))


def test_random_numbers_depend_on_the_keys_alone_and_differ_between_steps() -> None:
    same_rows = batches(1) * 3

    def trained(*keys: int, predictions: int = 0) -> list[dict[str, np.ndarray]]:
        learner, states = TorchLearner(build_model(own("dropout"), SHAPE, CLASSES, 0), "sgd"), []
        learner.set_noise(*keys)
        for batch in same_rows:
            for _ in range(predictions):
                learner.predict_logits(batch.x)
            start = learner.state()
            learner.train([batch], 0.01)
            states.append({k: learner.state()[k] - start[k] for k in start if k.startswith("model/")})
        return states

    first = trained(0, 12, 3, 1)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert all(map(same_bits, first, trained(0, 12, 3, 1, predictions=2)))
    assert not any(map(same_bits, first, trained(0, 12, 3, 2)))
    zeros = [{k: v == 0 for k, v in change.items()} for change in first]  # the rows of dropped units do not change
    assert not same_bits(zeros[0], zeros[1])


def test_training_and_predictions_leave_the_global_generators_as_they_were() -> None:
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()  # type: ignore[index]
    learner = TorchLearner(build_model(own("DrawsEverywhere"), SHAPE, CLASSES, 0))
    learner.train(batches(4), 0.01)
    learner.predict_logits(batches(4)[0].x)
    assert before == (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # type: ignore[index]


@pytest.mark.parametrize("name", ["batch_norm", "cumulative", "lazy", "scripted", "Noisy"])
def test_a_batch_of_one_row_trains_with_the_running_statistics(name: str) -> None:
    learner = TorchLearner(build_model(own(name), SHAPE, CLASSES, 0))
    learner.train(batches(6), 0.01)
    before = learner.state()
    learner.train(batches(1), 0.01)
    after = learner.state()
    statistics = [k for k in before if "running" in k or "num_batches" in k]
    assert statistics
    assert all(before[k].tobytes() == after[k].tobytes() for k in statistics)
    assert any(before[k].tobytes() != after[k].tobytes() for k in before if k.startswith("model/"))
    learner.train(batches(6), 0.01)
    assert any(after[k].tobytes() != learner.state()[k].tobytes() for k in statistics)


def test_a_run_whose_batches_have_one_row_ends() -> None:
    for train in ({"batch_size": 1, "private_rows_per_batch": 0}, {"batch_size": 19, "private_rows_per_batch": 0}):
        states = final_states(config(own("batch_norm"), **train, local_steps=2))  # 20 proxy rows
        assert all(np.isfinite(v).all() for state in states for v in state.values())


def test_frozen_parameters_do_not_change_and_have_no_state_of_the_optimizer() -> None:
    learner = TorchLearner(build_model(own("frozen"), SHAPE, CLASSES, 0), "adam")
    before = learner.state()
    learner.train(batches(4, 4), 0.01)
    assert {k for k in before if "exp_avg/" in k} == {"optimizer/exp_avg/3.weight", "optimizer/exp_avg/3.bias"}
    assert before["model/1.weight"].tobytes() == learner.state()["model/1.weight"].tobytes()
    assert before["model/3.weight"].tobytes() != learner.state()["model/3.weight"].tobytes()


def test_parameters_of_float64_are_averaged_too() -> None:
    learner = TorchLearner(build_model(own("Double"), SHAPE, CLASSES, 0))
    row = parameters(learner)
    assert (row.dtype, row.size) == (np.float32, 36 * CLASSES + CLASSES)
    set_parameters(learner, row + 1)
    assert np.allclose(parameters(learner), row + 1)
    assert learner.state()["model/fc.weight"].dtype == np.float64


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
        ("tests.support.own_models:fixed", r"fails on 2 samples of shape \[1, 28, 28\]: RuntimeError: mat1"),
        ("tests.support.own_models:number", "must return a torch.nn.Module, but it returned 10"),
        ("tests.support.own_models:broken", "cannot build model .*: RuntimeError: no weights found"),
        ("tests.support.own_models:untrained", "has no parameters to train"),
        ("tests.support.own_models:Two", r"must return logits \[n, 10\], but for 2 samples it returned tuple"),
        (
            own("CountsInPython"),
            "has state that another process cannot continue from: keep what a training step changes",
        ),
        (own("CountsUnsaved"), "has state that another process cannot continue from"),
        (own("OwnGenerator"), "has state that another process cannot continue from"),
        (own("HasExtraState"), r"keeps state that is not a tensor \(_extra_state\): use register_buffer"),
        (own("sharing_memory"), r"2\.weight and 4\.weight share memory: assign the same parameter to both modules"),
        (own("bfloat16"), r"1\.weight is bfloat16, cpu, strided: use dense float32 tensors on the CPU"),
        (own("Squeezing"), r"must return logits \[n, 10\], but for 1 sample it returned \[10\]"),
        (own("OwnBatchNorm"), r"a batch of 1 sample of shape \[1, 28, 28\]: ValueError: Expected more than 1 value"),
        ("tests.support.own_models:Missing", "cannot load model .*own_models.py has no Missing: name another"),
        ("no_such_package.models:Net", "cannot load model .*: ModuleNotFoundError"),
        ("tests.support.own_models:", "must look like package.module:ATTRIBUTE"),
    ],
)
def test_an_error_in_an_own_model_is_reported_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_model(name, (1, 28, 28), 10)
    assert "\n" not in str(caught.value)
