"""Lock step: several functions run in turn, and a call that all of them make becomes one call.

The rounds of clients are ordinary functions. Here each of them has a thread of its own, but only one thread runs at any
time, and the order of the turns is fixed. So results do not depend on timing, and code that is not safe in threads is
safe here. A thread that reaches `gathered` waits. When all of them wait or have ended, the calls that belong together
are made as one, in the thread that called `lock_step`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")
ForAll = Callable[[list[Argument]], Sequence[Result]]
"""Maps the arguments of several calls to their results, in the same order."""

_THIS_THREAD = threading.local()


def gathered(function: ForAll[Argument, Result], argument: Argument, key: Hashable = None) -> Result:
    """Return the result of `function` for this argument, together with those of other functions in lock step.

    Calls are gathered if their function and their key are equal. Outside `lock_step`, the function gets one argument.
    """
    runner: _Runner[Any] | None = getattr(_THIS_THREAD, "runner", None)
    if runner is None:
        return function([argument])[0]
    answer: Result = runner.wait_for(_Call(function, key, argument))
    return answer


def lock_step(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run the functions in lock step and return their results.

    Whenever all of them wait, the largest group of gathered calls is made; of equal groups, that of the first function.
    So a function that is ahead waits for the others, and few calls are made with few arguments.

    Raises:
        BaseException: that of the first function that failed, in the order of `functions`, when all have ended. If one
            fails, the others go no further than their next call of `gathered`.
    """
    runners = [_Runner(function) for function in functions]
    try:
        for runner in runners:
            runner.advance()
            if runner.error is not None:
                break
        while (waiting := [r for r in runners if r.call is not None]) and not any(r.error for r in runners):
            _answer(_largest_group(waiting))
    finally:
        for runner in runners:
            runner.end()
    for runner in runners:
        if runner.error is not None:
            raise runner.error
    return [runner.result for runner in runners]


@dataclass(frozen=True, eq=False)
class _Call:
    function: ForAll[Any, Any]
    key: Hashable
    argument: Any


class _Abandoned(BaseException):
    """Ends a function that waits, because another one failed. No `except Exception` of the function stops it."""


class _Runner(Generic[Result]):
    """A function in its thread."""

    result: Result

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._abandoned = False
        self._answer: Any = None
        self.call: _Call | None = None
        """the call for whose result the function waits; None while it runs, and when it has ended"""
        self.error: BaseException | None = None

    def advance(self, answer: Any = None) -> None:
        """Let the function run, with the result of its call, until it waits again or ends."""
        self._answer, self.call = answer, None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        self._paused.acquire()

    def end(self) -> None:
        """End the function: its call, or its next one if it runs because `advance` was interrupted, has no result."""
        self._abandoned = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join()

    def wait_for(self, call: _Call) -> Any:
        """Wait for the result of a call. Only the thread of the function calls this."""
        if not self._abandoned:
            self.call = call
            self._paused.release()
            self._go.acquire()
        if self._abandoned:
            raise _Abandoned
        if isinstance(self._answer, _Failure):
            raise self._answer.error
        return self._answer

    def _run(self) -> None:
        _THIS_THREAD.runner = self
        try:
            self.result = self._function()
        except _Abandoned:
            pass
        except BaseException as error:  # raised by `lock_step`, in the thread that called it
            self.error = error
        finally:
            self._paused.release()


@dataclass(frozen=True, eq=False)
class _Failure:
    error: Exception


def _largest_group(waiting: list[_Runner[Any]]) -> list[_Runner[Any]]:
    groups: dict[tuple[Any, Hashable], list[_Runner[Any]]] = {}
    for runner in waiting:
        assert runner.call is not None
        groups.setdefault((runner.call.function, runner.call.key), []).append(runner)
    return max(groups.values(), key=len)  # the first of the largest ones


def _answer(group: list[_Runner[Any]]) -> None:
    """Make the calls of a group as one, and let each function of it go on with its result, or with the error."""
    calls = [runner.call for runner in group if runner.call is not None]
    try:
        answers: Sequence[Any] = calls[0].function([call.argument for call in calls])
    except Exception as error:
        answers = [_Failure(error)] * len(calls)
    for runner, answer in zip(group, answers, strict=True):
        runner.advance(answer)
        if runner.error is not None:
            return
