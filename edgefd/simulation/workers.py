"""Where clients run: one after another in this process, or in forked workers, with the same bits as a result.

Workers are forked once, with everything loaded, and live for the run. Data is inherited, not copied; parameters and
optimizer state lie in shared memory, so any worker may take any client: the next one goes to whoever is free.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

import torch

from edgefd.core.errors import RunError, UserError

State = TypeVar("State")
Result = TypeVar("Result")
Work = Callable[..., Result]  # work(state, client, *arguments); a module-level function, so that it travels by name


class ClientError(RunError):
    """A client's part of the run failed; the message names the client and holds the reason."""


class Pool(Protocol):
    """Runs work for clients by number."""

    def map(self, work: Work[Result], clients: Sequence[int], *arguments: Any) -> list[Result]:
        """`work(state, client, *arguments)` for each client; results in the order of `clients`.

        Raises:
            ClientError: if a client's work raises, or the process that does it dies.
        """
        ...

    def close(self) -> None:
        """Leave nothing running."""
        ...


class SerialPool(Generic[State]):
    """One client after another in this process."""

    def __init__(self, state: State) -> None:
        self._state = state

    def map(self, work: Work[Result], clients: Sequence[int], *arguments: Any) -> list[Result]:
        """See `Pool`."""
        return [self._one(work, client, arguments) for client in clients]

    def close(self) -> None:
        """Nothing is running."""

    def _one(self, work: Work[Result], client: int, arguments: tuple[Any, ...]) -> Result:
        try:
            return work(self._state, client, *arguments)
        except UserError:
            raise
        except Exception as error:
            raise ClientError(f"client {client} failed: {type(error).__name__}: {error}") from error


class ForkPool(Generic[State]):
    """`n` forked processes. Make it before the process starts threads of its own."""

    def __init__(self, state: State, n: int) -> None:
        context = multiprocessing.get_context("fork")
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for _ in range(n):
            ours, theirs = context.Pipe()
            self._connections.append(ours)
            process = context.Process(target=_serve, args=(state, theirs, tuple(self._connections)), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)

    def map(self, work: Work[Result], clients: Sequence[int], *arguments: Any) -> list[Result]:
        """See `Pool`."""
        results: dict[int, Result] = {}
        todo = list(reversed(clients))
        busy: dict[Connection, int] = {}
        for connection in self._connections:
            self._next(connection, work, todo, busy, arguments)
        while busy:
            ready = wait(list(busy))
            for connection in [c for c in busy if c in ready]:
                client = busy.pop(connection)
                results[client] = self._receive(connection, client)
                self._next(connection, work, todo, busy, arguments)
        return [results[client] for client in clients]

    def close(self) -> None:
        """End the workers: they stop when their pipe closes, and are killed if they do not."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()

    def _next(
        self,
        connection: Connection,
        work: Work[Result],
        todo: list[int],
        busy: dict[Connection, int],
        arguments: tuple[Any, ...],
    ) -> None:
        if todo:
            client = todo.pop()
            busy[connection] = client
            try:
                connection.send((work, client, arguments))
            except OSError as error:
                raise self._death(connection, client) from error

    def _receive(self, connection: Connection, client: int) -> Any:
        try:
            outcome, value = connection.recv()
        except (EOFError, OSError) as error:
            raise self._death(connection, client) from error
        if outcome == "done":
            return value
        raise UserError(value) if outcome == "user error" else ClientError(value)

    def _death(self, connection: Connection, client: int) -> ClientError:
        process = self._processes[self._connections.index(connection)]
        process.join(timeout=5)
        return ClientError(f"client {client} failed: its worker process died (exit code {process.exitcode})")


def _serve(state: Any, connection: Connection, inherited: tuple[Connection, ...]) -> None:
    """A worker's life: do work until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the pipes
    for other in inherited:
        other.close()  # else a pipe would stay open as long as any sibling lives
    torch.set_num_threads(1)
    while True:
        try:
            work, client, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("done", work(state, client, *arguments))
        except UserError as error:
            answer = ("user error", str(error))
        except Exception as error:
            answer = ("failed", f"client {client} failed: {type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except OSError:
            return
