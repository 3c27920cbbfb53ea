"""Benchmark of whole rounds on the device of this machine: stacked clients against other engines, in alternation.

Run: python -m benchmarks.gpu [--device auto] [--clients 10 100 1000] [--rows 64] [--turns 3] [--minutes 7]
It measures on a GPU if there is one, otherwise on the CPU, and writes benchmarks/out/gpu.md. It ends after `--minutes`,
at the latest when the round that is under way is over: the cases that are left are named in the table. pfl takes part
if it is installed (`pip install 'pfl[pytorch]'`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.engines import Engine, Naive, Ours, Pfl
from benchmarks.workload import Case
from edgefd.core.host import cores
from edgefd.learners.device import Device, find_device

OUT = Path(__file__).parent / "out" / "gpu.md"
MODELS = ("cnn", "resnet8_bn")
STACKED = "edgefd, stacked"
PFL_PROCESSES = (1, 2, 4)


@dataclass(frozen=True)
class Measured:
    """Seconds of each measured round of an engine, in a case."""

    case: str
    engine: str
    seconds: tuple[float, ...]
    memory: int | None
    """peak memory of the GPU in bytes; None on a CPU"""


def contenders(case: Case, device: Device, precision: str) -> dict[str, Callable[[], Engine]]:
    """Return the engines of a case by name, that of stacked clients first."""
    engines: dict[str, Callable[[], Engine]] = {
        STACKED: lambda: Ours(case, 0, {"device": device.name, "stack": "auto" if device.is_gpu else 16}),
        f"edgefd, one by one on {device.name}": lambda: Ours(case, 0, {"device": device.name, "stack": 1}),
        f"edgefd, CPU with {cores()} workers": lambda: Ours(case, cores(), {"device": "cpu"}),
        "naive loop": lambda: Naive(case, 1, device.torch),
    }
    if precision != "float32":
        chosen = {"device": device.name, "stack": "auto" if device.is_gpu else 16, "precision": precision}
        engines[f"{STACKED}, {precision}"] = lambda: Ours(case, 0, chosen)
    if find_spec("pfl") is not None:
        engines |= {
            f"pfl, {n} process{'es' if n > 1 else ''}": lambda n=n: PflProcesses(case, n, device)  # type: ignore[misc]
            for n in PFL_PROCESSES
        }
    return engines


class PflProcesses(Engine):
    """n processes of pfl, each with its share of the clients; a round is over when all of them are."""

    def __init__(self, case: Case, n: int, device: Device) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for i in range(n):
            ours, theirs = context.Pipe()
            share = replace(case, clients=len(range(i, case.clients, n)), proxy=case.proxy_rows)
            process = context.Process(target=_serve_pfl, args=(share, device.name, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def round(self) -> None:
        """Implement `Engine`."""
        for pipe in self._pipes:
            pipe.send(True)
        for pipe in self._pipes:
            pipe.recv()

    def close(self) -> None:
        """Implement `Engine`."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


def _serve_pfl(case: Case, device: str, pipe: multiprocessing.connection.Connection) -> None:
    os.environ["PFL_PYTORCH_DEVICE"] = device
    engine = Pfl(case)
    try:
        pipe.send(True)
        while pipe.recv():
            engine.round()
            pipe.send(True)
    except EOFError:
        return


def measure(case: Case, device: Device, precision: str, turns: int, deadline: float) -> Iterator[Measured]:
    """Yield the seconds of the rounds of each engine; one engine at a time, because each of them fills a GPU."""
    for name, make in contenders(case, device, precision).items():
        if time.monotonic() > deadline:
            yield Measured(case.name, name, (), None)
            continue
        with _peak_memory(device) as peak:
            engine = make()
            try:
                engine.round()  # warm-up
                seconds = []
                while len(seconds) < turns and (not seconds or time.monotonic() < deadline):
                    began = time.perf_counter()
                    engine.round()
                    if device.torch.type == "cuda":
                        torch.cuda.synchronize()
                    seconds.append(time.perf_counter() - began)
            finally:
                engine.close()
        yield Measured(case.name, name, tuple(seconds), peak[0] if peak else None)


@contextmanager
def _peak_memory(device: Device) -> Iterator[list[int]]:
    """Add the peak memory of a CUDA GPU to the list that it yields, when the context ends."""
    peak: list[int] = []
    if device.torch.type != "cuda":
        yield peak
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield peak
    peak.append(torch.cuda.max_memory_allocated())


def table(results: list[Measured], device: Device, rows: int) -> str:
    """Return the measurements as a Markdown table."""
    stacked = {r.case: float(np.median(r.seconds)) for r in results if r.engine == STACKED and r.seconds}
    lines = [
        f"Device: {device.label}; torch {torch.__version__}; {cores()} cores of {platform.processor() or 'a CPU'}; "
        f"load {os.getloadavg()[0]:.1f} at the end.",
        f"One round: an epoch on {rows} proxy rows and one on {rows} private rows of each client, batches of 64, SGD.",
        "",
        "| case | engine | seconds a round | stacked is faster by | GPU memory, MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in results:
        median = float(np.median(r.seconds)) if r.seconds else None
        shown = "not measured: out of time" if median is None else f"{median:.3f} ({len(r.seconds)} rounds)"
        by = f"{median / stacked[r.case]:.2f}x" if median is not None and r.case in stacked else ""
        lines.append(f"| {r.case} | {r.engine} | {shown} | {by} | {'' if r.memory is None else r.memory // 2**20} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cases, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rows", type=int, default=64, help="proxy rows, and private rows of each client")
    parser.add_argument("--turns", type=int, default=3, help="measured rounds of each engine")
    parser.add_argument("--minutes", type=float, default=7.0, help="time for all measurements")
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="float32", help="also measured")
    chosen = parser.parse_args()
    device = find_device(chosen.device)
    if find_spec("pfl") is None:
        print("pfl is not installed, so it is left out", flush=True)
    deadline = time.monotonic() + 60 * chosen.minutes
    results = []
    for clients in chosen.clients:  # small cases first, so that little is lost if the time is over
        for model in MODELS:
            for result in measure(Case(model, clients, chosen.rows), device, chosen.precision, chosen.turns, deadline):
                results.append(result)
                print(result.case, result.engine, [round(s, 3) for s in result.seconds], flush=True)
    text = table(results, device, chosen.rows)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text)
    print(f"\n{text}\nwritten: {OUT}")


if __name__ == "__main__":
    main()
