"""The ONNX learner keeps its state if a training step fails."""

from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import RunError
from edgefd.learners.batches import labelled
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.wire.bundle_reader import read_bundle
from tests.support.bundles import SHAPE, small_bundle


def test_a_step_whose_result_is_not_finite_leaves_the_state_unchanged(tmp_path: Path) -> None:
    bundle = read_bundle(small_bundle(tmp_path / "b"))
    learner = OnnxLearner(Sessions(bundle.graphs), bundle.init)
    before = learner.state()
    finite = labelled(np.ones((5, *SHAPE), np.float32), np.zeros(5, np.int64), 3)
    not_finite = labelled(np.full((5, *SHAPE), np.nan, np.float32), np.zeros(5, np.int64), 3)
    with pytest.raises(RunError, match="not finite"):
        learner.train([finite, not_finite], 0.01)
    after = learner.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert learner.train([finite], 0.01) > 0
