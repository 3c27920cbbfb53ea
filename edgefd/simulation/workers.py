"""Pools that run the work of clients: serially in this process, or in forked workers, with bit-identical results.

Workers are forked once, with everything loaded, and live until the run ends. Data is inherited, not copied; parameters
and optimizer state are in shared memory, so any worker can run any client: an idle worker takes the next one.
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
Work = Callable[..., Result]  # work(state, client, *arguments); a module-level function, because it is pickled by name


class ClientError(RunError):
    """Failure of a client's work; the message names the client and the reason."""


class Pool(Protocol):
    """Interface of a pool that runs work for clients by number."""

    def map(self, work: Work[Result], clients: Sequence[int], *arguments: Any) -> list[Result]:
        """Run `work(state, client, *arguments)` for each client; return the results in the order of `clients`.

        Raises:
            ClientError: if a client's work raises, or its process dies.
            UserError: if a client's work raises one.
        """
        ...

    def close(self) -> None:
        """End all processes of the pool."""
        ...


class SerialPool(Generic[State]):
    """Pool that runs one client after another in this process."""

    def __init__(self, state: State) -> None:
        self._state = state

    def map(self, work: Work[Result], clients: Sequence[int], *arguments: Any) -> list[Result]:
        """See `Pool`."""
        return [self._run(work, client, arguments) for client in clients]

    def close(self) -> None:
        """Do nothing: the pool has no processes."""

    def _run(self, work: Work[Result], client: int, arguments: tuple[Any, ...]) -> Result:
        try:
            return work(self._state, client, *arguments)
        except UserError:
            raise
        except Exception as error:
            raise ClientError(f"client {client} failed: {type(error).__name__}: {error}") from error


class ForkPool(Generic[State]):
    """Pool of `n` forked processes.

    Forked workers do not have the threads of this process. Therefore a worker uses torch with one thread.
    """

    def __init__(self, state: State, n: int) -> None:
        context = multiprocessing.get_context("fork")
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            for _ in range(n):
                parent_end, worker_end = context.Pipe()
                self._connections.append(parent_end)
                inherited = tuple(self._connections)
                process = context.Process(target=_serve, args=(state, worker_end, inherited), daemon=True)
                process.start()
                worker_end.close()
                self._processes.append(process)
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def map(self, work: Work[Result], clients: Sequence[int], *arguments: Any) -> list[Result]:
        """See `Pool`."""
        results: dict[int, Result] = {}
        waiting = list(reversed(clients))
        busy: dict[Connection, int] = {}
        for connection in self._connections:
            self._send_next(connection, work, waiting, busy, arguments)
        while busy:
            ready = wait(list(busy))
            for connection in [c for c in busy if c in ready]:
                client = busy.pop(connection)
                results[client] = self._receive(connection, client)
                self._send_next(connection, work, waiting, busy, arguments)
        return [results[client] for client in clients]

    def close(self) -> None:
        """End the workers: they stop when their pipe closes; after 5 s, they are killed."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()

    def _send_next(
        self,
        connection: Connection,
        work: Work[Result],
        waiting: list[int],
        busy: dict[Connection, int],
        arguments: tuple[Any, ...],
    ) -> None:
        if waiting:
            client = waiting.pop()
            busy[connection] = client
            try:
                connection.send((work, client, arguments))
            except OSError as error:
                raise self._death_error(connection, client) from error

    def _receive(self, connection: Connection, client: int) -> Any:
        try:
            outcome, value = connection.recv()
        except (EOFError, OSError) as error:
            raise self._death_error(connection, client) from error
        if outcome == "done":
            return value
        raise UserError(value) if outcome == "user error" else ClientError(value)

    def _death_error(self, connection: Connection, client: int) -> ClientError:
        process = self._processes[self._connections.index(connection)]
        process.join(timeout=5)
        return ClientError(f"client {client} failed: its worker process died (exit code {process.exitcode})")


def _serve(state: Any, connection: Connection, inherited: tuple[Connection, ...]) -> None:
    """Run work in a worker process until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C: it closes the pipes
    for other in inherited:
        other.close()  # otherwise a pipe would stay open as long as any sibling lives
    torch.set_num_threads(1)
    while True:
        try:
            work, client, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = ("done", work(state, client, *arguments))
        except UserError as error:
            outcome = ("user error", str(error))
        except Exception as error:
            outcome = ("failed", f"client {client} failed: {type(error).__name__}: {error}")
        try:
            connection.send(outcome)
        except OSError:
            return
