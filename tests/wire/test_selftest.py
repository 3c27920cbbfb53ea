"""The self-test of a bundle: its checksums find what the whole state would show."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.doctor import TOLERANCE, selftest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.errors import RunError
from edgefd.learners.graphs import State
from edgefd.learners.onnx_learner import OnnxLearner
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.selftest import checksums, n_checksums
from tests.support.bundles import small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(small_bundle(tmp_path_factory.mktemp("bundle") / "b"))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 20_000), st.data())
def test_a_number_that_deviates_changes_a_checksum_by_at_least_as_much(size: int, data: st.DataObject) -> None:
    array = np.random.default_rng(size).standard_normal(size)
    place, change = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from([-1.0, 1e-3, 5.0]))
    before = checksums(array)
    array[place] += change
    assert len(before) == n_checksums(size)
    assert np.abs(checksums(array) - before).max() >= abs(change) * (1 - 1e-9)


def _scaled(state: State) -> State:
    return {n: v * np.float32(1 + 10 * TOLERANCE) for n, v in state.items()}


def _swapped(state: State) -> State:
    return {n: v[::-1] if v.ndim > 1 else v for n, v in state.items()}


def _shifted(state: State) -> State:
    return {n: v + 2 * np.float32(TOLERANCE) * np.abs(v).max(initial=0) for n, v in state.items()}


def _one_tensor_without_gradient(state: State) -> State:
    name = next(name for name in state if name.startswith("optimizer/exp_avg/") and state[name].ndim == 4)
    return {**state, name: np.zeros_like(state[name])}


def _one_number(state: State) -> State:
    name = max(state, key=lambda name: state[name].size)
    changed = state[name].copy()
    changed.reshape(-1)[777] += 2 * TOLERANCE * np.abs(changed).max()
    return {**state, name: changed}


def _alternating(state: State) -> State:
    name = max(state, key=lambda name: state[name].size)
    signs = np.where(np.arange(state[name].size) % 2, 1, -1).reshape(state[name].shape).astype(np.float32)
    return {**state, name: state[name] + signs * np.float32(5 * TOLERANCE) * np.abs(state[name]).max()}


@pytest.mark.parametrize(
    "wrong", [_scaled, _swapped, _shifted, _one_tensor_without_gradient, _one_number, _alternating]
)
def test_a_machine_that_computes_another_state_is_found(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[State], State]
) -> None:
    assert selftest(bundle) <= TOLERANCE / 10
    right = OnnxLearner.state
    monkeypatch.setattr(OnnxLearner, "state", lambda learner: wrong(right(learner)))
    with pytest.raises(RunError, match="do not use this machine"):
        selftest(bundle)


def test_a_machine_with_another_loss_is_found(bundle: Bundle) -> None:
    test = dataclasses.replace(bundle.selftest, loss=bundle.selftest.loss * 1.01)
    with pytest.raises(RunError, match="do not use this machine"):
        selftest(dataclasses.replace(bundle, selftest=test))


def test_the_selftest_takes_few_bytes(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "b")
    size = (folder / "selftest.npz").stat().st_size
    assert size < 10_000 < sum(array.nbytes for array in read_bundle(folder).init.values())
