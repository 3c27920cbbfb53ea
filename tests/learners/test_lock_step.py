"""Lock step: calls are gathered, the order is fixed, and an error of one function ends the others."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.learners.lock_step import gathered, lock_step


class Recorder:
    """Two functions for many arguments, which record how often they were called with what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def double(self, values: list[int]) -> list[int]:
        self.calls.append(("double", values))
        return [2 * value for value in values]

    def negate(self, values: list[int]) -> list[int]:
        self.calls.append(("negate", values))
        return [-value for value in values]


def test_outside_lock_step_a_call_has_one_argument() -> None:
    recorder = Recorder()
    assert gathered(recorder.double, 3) == 6
    assert recorder.calls == [("double", [3])]


def test_functions_that_call_the_same_share_the_calls() -> None:
    recorder = Recorder()

    def work(value: int) -> int:
        return gathered(recorder.negate, gathered(recorder.double, value))

    assert lock_step([lambda v=v: work(v) for v in range(4)]) == [0, -2, -4, -6]
    assert recorder.calls == [("double", [0, 1, 2, 3]), ("negate", [0, 2, 4, 6])]


def test_calls_with_other_keys_are_apart() -> None:
    recorder = Recorder()
    lock_step([lambda v=v: gathered(recorder.double, v, key=v % 2) for v in range(5)])
    assert recorder.calls == [("double", [0, 2, 4]), ("double", [1, 3])]


def test_a_function_that_is_ahead_waits_for_the_others() -> None:
    recorder = Recorder()

    def work(steps: int) -> int:
        for _ in range(steps):
            gathered(recorder.double, steps)
        return gathered(recorder.negate, steps)

    assert lock_step([lambda n=n: work(n) for n in (1, 3, 3)]) == [-1, -3, -3]
    assert [len(values) for name, values in recorder.calls if name == "negate"] == [3]
    assert [len(values) for name, values in recorder.calls if name == "double"] == [3, 2, 2]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=6))
def test_results_are_those_of_one_after_another_and_the_calls_are_the_same_each_time(plans: list[list[int]]) -> None:
    def run(recorder: Recorder) -> Callable[[list[int]], list[int]]:
        def work(plan: list[int]) -> list[int]:
            kinds = (recorder.double, recorder.negate)
            return [gathered(kinds[item % 2], item) for item in plan]

        return work

    expected = [run(Recorder())(plan) for plan in plans]
    recorders = [Recorder(), Recorder()]
    for recorder in recorders:
        assert lock_step([lambda p=p: run(recorder)(p) for p in plans]) == expected  # noqa: B023  # called at once
    assert recorders[0].calls == recorders[1].calls


def test_the_first_error_is_raised_and_the_others_end() -> None:
    recorder, ended = Recorder(), []

    def work(value: int) -> int:
        try:
            gathered(recorder.double, value)
            if value in (2, 3):
                raise ValueError(f"no {value}")
            return gathered(recorder.double, value)
        finally:
            ended.append(value)

    before = threading.active_count()
    with pytest.raises(ValueError, match="no 2"):
        lock_step([lambda v=v: work(v) for v in range(5)])
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert threading.active_count() == before


def test_a_function_that_catches_every_exception_ends_too() -> None:
    def stubborn() -> int:
        while True:
            with contextlib.suppress(Exception):
                gathered(Recorder().double, 1)

    def fails() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        lock_step([stubborn, fails])


def test_an_error_of_the_gathered_call_reaches_the_functions() -> None:
    def broken(values: list[int]) -> list[int]:
        raise MemoryError("too many")

    def work() -> int:
        try:
            return gathered(broken, 1)
        except MemoryError:
            return -1

    assert lock_step([work, work]) == [-1, -1]
    with pytest.raises(MemoryError, match="too many"):
        lock_step([lambda: gathered(broken, 1)])


def test_ctrl_c_in_a_gathered_call_ends_all_functions() -> None:
    def interrupted(values: list[int]) -> list[int]:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        lock_step([lambda: gathered(interrupted, 1)] * 3)
    assert threading.active_count() == before


def test_ctrl_c_while_a_function_runs_ends_all_functions() -> None:
    recorder, ended = Recorder(), []

    def work(value: int) -> None:
        try:
            gathered(recorder.double, value)
            if value == 1:
                signal.raise_signal(signal.SIGINT)  # the main thread, which waits for this one, gets it
                time.sleep(0.2)
            gathered(recorder.double, value)
        finally:
            ended.append(value)

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        lock_step([lambda v=v: work(v) for v in range(3)])
    assert sorted(ended) == [0, 1, 2]
    assert threading.active_count() == before
