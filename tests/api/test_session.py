"""Scripts, in processes of their own, that use the API like a session: several runs, threads, Ctrl-C, sweeps."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.small_configs import SMALL

ROOT = Path(__file__).parents[2]
STATE = """
import multiprocessing, os, random, signal, threading
import numpy as np, torch
import edgefd
SMALL = {small!r}

def state():
    numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    threads = torch.get_num_threads(), threading.active_count(), multiprocessing.active_children()
    return numbers, threads, os.getcwd(), signal.getsignal(signal.SIGINT)
"""
TWO_RUNS = """
torch.set_num_threads(2)
a = torch.randn(500, 500, requires_grad=True)
(a @ a).sum().backward()  # torch has started threads, and has trained
before = state()
first = edgefd.simulate(SMALL, {"run.workers": 2}, out="first")
edgefd.simulate(SMALL, {"seed": 1, "run.workers": 0}, out="other")
second = edgefd.simulate(SMALL, {"run.workers": 0}, out="second")
assert state() == before
assert first.teacher.equals(second.teacher)
"""
CTRL_C = """
before = state()
class Interrupt(edgefd.Callback):
    def on_round(self, metrics):
        if metrics.round == 1:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
for workers in (0, 2):
    settings = {"train.rounds": 5000, "run.workers": workers}
    try:
        edgefd.simulate(SMALL, settings, out=f"run{workers}", callbacks=[Interrupt()])
    except KeyboardInterrupt as stop:
        print(stop)
assert state() == before
"""
SWEEP = """
grid = {"base": SMALL | {"train": {"rounds": 1}}, "grid": {"seed": [0, 1]}}
folders = edgefd.sweep(grid, {"method": {"name": "fedmd"}}, jobs=2, on_done=lambda name, outcome: print(name, outcome))
assert edgefd.sweep(grid, {"method": {"name": "fedmd"}}, jobs=2) == folders
assert [row for row in edgefd.compare(folders)["runs"]] == [2]
assert multiprocessing.active_children() == []
"""


def run_script(folder: Path, program: str) -> str:
    """Run a script that has no `if __name__` and return what it prints; it must print nothing on stderr."""
    script = folder / "script.py"
    script.write_text(STATE.format(small=SMALL) + program)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "proto")))
    command, variables = [sys.executable, script], os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_runs_print_nothing_leave_no_trace_and_do_not_affect_each_other(tmp_path: Path) -> None:
    assert run_script(tmp_path, TWO_RUNS) == ""
    (tmp_path / "alone").mkdir()
    run_script(tmp_path / "alone", 'edgefd.simulate(SMALL, {"run.workers": 2}, out="run")\n')
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("second", "alone/run")]
    timing = ("seconds_total", "seconds_per_round")
    first, alone = ({k: v for k, v in summary.items() if k not in timing} for summary in summaries)
    assert first == alone


def test_ctrl_c_keeps_the_rounds_and_the_session(tmp_path: Path) -> None:
    messages = run_script(tmp_path, CTRL_C).splitlines()
    for message, workers in zip(messages, (0, 2), strict=True):
        lines = (tmp_path / f"run{workers}" / "metrics.jsonl").read_text().splitlines()
        assert message == f"the rounds done so far ({len(lines)}) are in run{workers}"
        assert json.loads((tmp_path / f"run{workers}" / "summary.json").read_text())["complete"] is False


def test_a_sweep_does_not_run_the_script_again(tmp_path: Path) -> None:
    outcomes = run_script(tmp_path, SWEEP).splitlines()
    assert len(outcomes) == 2
    assert all(" accuracy " in line for line in outcomes)
    assert len(list((tmp_path / "runs" / "sweep").iterdir())) == 2
