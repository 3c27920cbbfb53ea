"""Calibration of intervals: for models that saw no candidate, 95 of 100 intervals cover 0.5."""

import numpy as np
import pytest

from edgefd.auditing.measures import membership_formulas as formulas
from edgefd.auditing.measures.statistics import auc
from edgefd.data.datasets import load_dataset
from edgefd.federation.clients import scale_of
from edgefd.learners.batches import draw, labelled, softmax
from edgefd.learners.models import build_model
from edgefd.learners.torch_learner import TorchLearner

NAMES = ("loss", "entropy", "modified_entropy", "label_only", "rmia", "lira")


def covered(seeds: range) -> dict[str, int]:
    """Count by attack the repetitions whose 95 % interval covers 0.5.

    Each repetition draws 200 "members", 200 "non-members", 400 records for the target and 400 of a population for
    two references.
    """
    import torch

    torch.set_num_threads(1)
    data = load_dataset("mnist_mini")
    x, y = scale_of(data.x_train)(data.x_train), data.y_train
    count = dict.fromkeys(NAMES, 0)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        candidates, target_rows, population = np.split(rng.permutation(len(x))[:1200], [400, 800])
        member = np.arange(400) < 200

        def outputs(train: np.ndarray, key: int, seed: int = seed, queried: tuple = (candidates, population)) -> list:
            learner = TorchLearner(build_model("mlp", x.shape[1:], 10, seed * 10 + key), "adam")
            learner.train(draw(labelled(x[train], y[train], 10), 50, 64, np.random.default_rng(seed)), 0.003)
            return [softmax(learner.predict_logits(x[rows])) for rows in queried]

        p, p_z = outputs(target_rows, 0)
        pairs = [outputs(half, 1 + i) for i, half in enumerate(np.split(population, 2))]
        others, others_z = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
        yc, yz = y[candidates], y[population]
        scores = {
            "loss": formulas.loss(p, yc),
            "entropy": formulas.entropy(p, yc),
            "modified_entropy": formulas.modified_entropy(p, yc),
            "label_only": formulas.label_only(p, yc),
            "rmia": formulas.rmia(formulas.Outputs(p, yc, others), formulas.Outputs(p_z, yz, others_z)),
            "lira": formulas.lira(p, yc, others),
        }
        for name, values in scores.items():
            area = auc(values[member], values[~member])
            count[name] += area.low <= 0.5 <= area.high
    return count


def test_most_of_a_few_null_intervals_cover_one_half() -> None:
    assert min(covered(range(8)).values()) >= 6  # below by chance in 6 of 1,000


@pytest.mark.slow
def test_null_intervals_cover_one_half_at_their_nominal_rate() -> None:
    counts = covered(range(100))
    assert min(counts.values()) >= 88, counts  # 95 expected; below by chance in 2 of 1,000
