"""Worker processes: the results of the serial pool, errors that name the client, no process left behind."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.shared_memory import shared_zeros
from edgefd.simulation.workers import ClientError, ForkPool, Pool, SerialPool

STATE = shared_zeros((4, 3))


def write(state: np.ndarray, client: int, value: float) -> tuple[int, int]:
    state[client] = value + client
    return client, os.getpid()


def read(state: np.ndarray, client: int) -> float:
    return float(state[client].sum())


def fail(state: np.ndarray, client: int) -> int:
    if client == 2:
        raise ZeroDivisionError("division by nothing")
    return client


def complain(state: np.ndarray, client: int) -> None:
    raise UserError("correct the input")


def die(state: np.ndarray, client: int) -> int:
    if client == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return client


def uneven(state: np.ndarray, client: int) -> int:
    time.sleep(0.2 if client == 0 else 0.01)
    return os.getpid()


def running(pool: ForkPool[np.ndarray]) -> list[int]:
    return [p.pid for p in pool._processes if p.pid and Path(f"/proc/{p.pid}").exists()]


@pytest.fixture(params=[0, 1, 2, 6])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    pool: Pool = ForkPool(STATE, request.param) if request.param else SerialPool(STATE)
    yield pool
    pool.close()
    if isinstance(pool, ForkPool):
        assert running(pool) == []


def test_results_have_the_order_of_the_clients(pool: Pool) -> None:
    assert [c for c, _ in pool.map(write, [3, 0, 2, 1], 5.0)] == [3, 0, 2, 1]
    assert pool.map(read, range(4)) == [15.0, 18.0, 21.0, 24.0]  # every worker sees the writes of all
    assert pool.map(read, []) == []


def test_the_error_of_a_failing_client_names_it(pool: Pool) -> None:
    with pytest.raises(ClientError, match="client 2 failed: ZeroDivisionError: division by nothing"):
        pool.map(fail, range(4))


def test_a_user_error_of_a_client_is_raised_unchanged(pool: Pool) -> None:
    with pytest.raises(UserError, match=r"^correct the input$"):
        pool.map(complain, range(4))


@pytest.mark.parametrize("n", [1, 2, 6])
def test_the_error_of_a_dead_worker_names_the_client(n: int) -> None:
    pool = ForkPool(STATE, n)
    with pytest.raises(ClientError, match=r"client 2 failed: its worker process died \(exit code -9\)"):
        pool.map(die, range(4))
    pool.close()
    assert running(pool) == []


def test_an_idle_worker_takes_the_next_client() -> None:
    pool = ForkPool(STATE, 2)
    pids = pool.map(uneven, [0, 1, 2, 3])
    pool.close()
    assert pids.count(pids[0]) == 1


def test_workers_end_when_the_parent_is_killed() -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        pool = ForkPool(STATE, 2)
        os.write(writer, ",".join(str(p.pid) for p in pool._processes).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    children = os.read(reader, 100).decode().split(",")
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in children if _alive(pid)] == []


def _alive(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
