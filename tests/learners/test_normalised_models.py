"""Named models with batch normalisation: their sizes, training with recorded steps, and export."""

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.export.model_graphs import export_graphs
from edgefd.export.verify import verify
from edgefd.learners.batches import labelled
from edgefd.learners.models import build_model, check_model
from edgefd.learners.normalised_models import NORMALISED_MODELS
from edgefd.learners.torch_learner import TorchLearner

SHAPE = (1, 16, 15)
LAYERS = {"resnet8_bn": 9, "resnet20_bn": 21, "mobilenetv2_bn": 20, "dscnn": 9}


def samples(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("name", NORMALISED_MODELS)
def test_recorded_steps_have_the_bits_of_eager_steps_also_for_one_row(name: str) -> None:
    learners = [TorchLearner(build_model(name, SHAPE, 3, 0), "sgd", recorded_steps=r) for r in (None, {})]
    for n in (6, 1, 6, 4):
        batch = labelled(samples(n), np.arange(n) % 3, 3)
        assert len({learner.train([batch], 0.05) for learner in learners}) == 1
    a, b = (learner.state() for learner in learners)
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert int(a[next(key for key in a if key.endswith("num_batches_tracked"))]) == 3


@pytest.mark.parametrize("name", NORMALISED_MODELS)
def test_a_named_model_has_the_published_number_of_normalised_layers(name: str) -> None:
    state = build_model(name, SHAPE, 3, 0).state_dict()
    assert sum(key.endswith("running_mean") for key in state) == LAYERS[name]


@pytest.mark.parametrize(
    "name",
    [n if n == "dscnn" else pytest.param(n, marks=pytest.mark.slow) for n in NORMALISED_MODELS],
)
def test_an_exported_step_agrees_with_torch(name: str) -> None:
    model = build_model(name, SHAPE, 3, 0)
    errors = verify(export_graphs(model, "adam", 8, SHAPE, 3), model, "adam", samples(40))
    assert errors["step"] <= max(1e-5, 3 * errors["torch"]), errors


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="'dscnn' needs images of 8 x 8 or more"):
        check_model("dscnn", (1, 49, 7), 3)
