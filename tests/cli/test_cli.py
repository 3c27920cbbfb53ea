"""The `edgefd` command as a user runs it: real processes, exit codes, one line for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from edgefd.data.datasets import DATASETS
from edgefd.methods import get_method, method_names
from tests.support.commands import QUICKSTART, ROOT, command, edgefd, env

QUICK = ["data.limit=300", "train.rounds=2", "model.name=cnn_small", "baselines=[]", "method.n_clusters=3"]
KEYS = {
    *("method", "dataset", "scenario", "seed", "rounds", "accuracy_mean", "accuracy_worst", "accuracy_per_client"),
    *("bytes_up", "bytes_down", "bytes_once", "seconds_total", "seconds_per_round", "kept_fraction"),
    *("proxy_labels_used", "raw_samples_disclosed", "data_source", "data_sha256"),
}


def test_simulate_writes_a_run_folder_for_the_method_and_each_baseline(tmp_path: Path) -> None:
    done = edgefd("simulate", QUICKSTART, *QUICK[:3], "baselines=[fedmd]", "--out", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "final accuracy" in done.stdout
    assert "edgefd 3/3" in done.stdout
    assert "fedmd 3/3" in done.stdout
    for folder, method in (("r", "edgefd"), ("r/also/fedmd", "fedmd")):
        run = tmp_path / folder
        summary = json.loads((run / "summary.json").read_text())
        assert set(summary) >= KEYS
        assert summary["method"] == method
        assert summary["complete"] is True
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [m["round"] for m in lines] == [0, 1, 2]
        assert summary["accuracy_mean"] == lines[-1]["accuracy_mean"]
        assert summary["bytes_up"] == sum(m["bytes_up"] for m in lines)
        resolved = yaml.safe_load((run / "config.yaml").read_text())
        assert resolved["train"]["rounds"] == 2
        assert resolved["method"]["name"] == method
        partition = json.loads((run / "partition.json").read_text())
        assert len(partition["clients"]) == 10
        assert json.loads((run / "env.json").read_text())["packages"]["numpy"] == np.__version__
    again = edgefd("simulate", "r/config.yaml", "baselines=[]", "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    first, second = (json.loads((tmp_path / r / "summary.json").read_text()) for r in ("r", "again"))
    assert first["accuracy_per_client"] == second["accuracy_per_client"]


def test_methods_lists_every_method_with_its_settings(tmp_path: Path) -> None:
    listing = edgefd("methods", cwd=tmp_path, COLUMNS="400").stdout
    rows = {cells[0]: cells[1:] for line in listing.splitlines() if len(cells := split_row(line)) == 4}
    assert set(rows) == set(method_names())
    for name, (summary, settings, labels) in rows.items():
        method = get_method(name)
        assert summary == method.summary
        assert labels == ("yes" if method.proxy_labels else "no")
        assert all(f"{field.name}=" in settings for field in fields(method.config))


def test_datasets_lists_every_data_set_with_its_location_or_the_remedy(tmp_path: Path) -> None:
    done = edgefd("datasets", cwd=tmp_path, COLUMNS="400", XDG_CACHE_HOME=str(tmp_path))
    rows = {cells[0]: cells[1:] for line in done.stdout.splitlines() if len(cells := split_row(line)) == 3}
    assert set(rows) == set(DATASETS)
    assert all(rows[name][0] == contents for name, contents in DATASETS.items())
    assert rows["mnist_mini"][1].endswith("mnist_mini.npz")
    assert rows["mnist"][1].startswith("not found: run edgefd datasets --download mnist")
    assert (done.returncode, done.stderr) == (0, "")


def split_row(line: str) -> list[str]:
    """Return the cells of a row of a table; the header and the borders have other separators."""
    return [cell.strip() for cell in line.strip("│").split("│")] if line.startswith("│") else []


def test_partition_and_check_describe_the_federation_and_write_nothing(tmp_path: Path) -> None:
    contributed = "proxy.source=contributed"
    table = edgefd("partition", QUICKSTART, contributed, cwd=tmp_path).stdout
    assert table.count("600") == 10
    checked = edgefd("check", QUICKSTART, contributed, "train.rounds=7", cwd=tmp_path)
    assert yaml.safe_load(checked.stdout)["train"]["rounds"] == 7
    assert "10 clients, 600 proxy samples, 600 raw samples disclosed" in checked.stdout
    assert "training samples: 6000, 600 of each class" in checked.stdout
    assert list(tmp_path.iterdir()) == []


def test_check_explains_the_keys_of_a_config_without_its_data(tmp_path: Path) -> None:
    done = edgefd("check", QUICKSTART, "--explain", "data.name=absent.npz", "train.rounds=7", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n* train.rounds: 7   (default: 30)\n      number of rounds; after the last one" in done.stdout
    assert "\n* data.name: absent.npz   (default: mnist_mini)\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian.rounds=3"], "trian: unknown key, did you mean 'train'?"),
        (["method.name=edgfd"], "unknown method 'edgfd': did you mean 'edgefd'?"),
        (["data.name=mnits"], "unknown data set 'mnits'"),
        (["data.name=mnist"], "edgefd datasets --download mnist"),
        (["proxy.alpha=1.5"], "must be in (0, 1), not 1.5"),
        (["partition.n_clients=11"], "11 clients are more than 10 classes"),
        (["partition.name=iid", "partition.n_clients=3000"], "private samples"),
        (["data.name=labels.npz"], "the test label 10 is not among"),
        (["data.name=nan.npz"], "NaN or infinite"),
        (["data.name=pickled.npz"], "pickles"),
        (["data.name=torn.npz"], "not a whole npz"),
        (["model.name=cnm"], "unknown model 'cnm': did you mean 'cnn'?"),
        (["data.name=digits"], "needs images of 16 x 16 or more"),
        (["train.augment_shift=2", "data.name=table.npz", "model.name=mlp"], "train.augment_shift shifts images"),
        (["--out", "taken"], "exists already"),
        (["--out", "/proc/nowhere"], "cannot write run folder"),
        (["baselines=[edgfd]"], "unknown method"),
        (["data.name=a:x:b.npz"], "there is no file a:x:b.npz"),
        (["data.name=''"], "unknown data set ''"),
    ],
)
def test_bad_input_is_reported_in_one_line_and_leaves_no_files(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    x, y = np.zeros((40, 20), np.float32), np.arange(40) % 10
    good = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    np.savez(tmp_path / "table.npz", **good)  # type: ignore[arg-type]
    np.savez(tmp_path / "labels.npz", **(good | {"y_test": y + 9}))  # type: ignore[arg-type]
    np.savez(tmp_path / "nan.npz", **(good | {"x_train": x + np.nan}))  # type: ignore[arg-type]
    np.savez(tmp_path / "pickled.npz", **(good | {"y_train": np.array([None] * 40)}))  # type: ignore[arg-type]
    (tmp_path / "torn.npz").write_bytes((tmp_path / "table.npz").read_bytes()[:200])
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = edgefd("simulate", QUICKSTART, *arguments, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_federation_of_processes_gives_the_results_of_the_simulation(tmp_path: Path) -> None:
    settings = [QUICKSTART, *QUICK, "partition.n_clients=2"]
    labels = ["--proxy-labels", "labels.npz"]
    for arguments in (["export", *settings, "--out", "bundle", *labels], ["partition", *settings, "--out", "data"]):
        done = edgefd(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["client-000.npz", "client-001.npz"]
    path = os.pathsep.join(str(ROOT / part) for part in ("", "proto", "server", "client"))
    program = [sys.executable, "-c", "from edgefd_client.cli import main; main()", "run", "--bundle", "bundle"]
    program += ["--exchange", "exchange"]
    clients = [
        subprocess.Popen(
            [*program, "--data", f"data/client-00{i}.npz", "--state", f"state-{i}", "--client", str(i)],
            cwd=tmp_path,
            env=env({"PYTHONPATH": path}),
            stdout=subprocess.DEVNULL,
        )
        for i in range(2)
    ]
    try:
        serve = ["serve", "folder", QUICKSTART, "exchange", *settings[1:], "--bundle", "bundle", *labels]
        served = edgefd(*serve, "--timeout", "60", "--out", "r", cwd=tmp_path, PYTHONPATH=path)
        assert served.returncode == 0, served.stderr
        assert [client.wait(30) for client in clients] == [0, 0]
    finally:
        for client in clients:
            client.kill()
    simulated = edgefd("simulate", *settings, "run.learner=onnx", "--out", "s", cwd=tmp_path, PYTHONPATH=path)
    assert simulated.returncode == 0, simulated.stderr
    again = edgefd(*serve, "--resume", "--out", "r", cwd=tmp_path, PYTHONPATH=path)
    assert again.returncode == 0, again.stderr  # of a complete run, only the summary is written again
    assert (
        len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines())
        == 1 + json.loads((tmp_path / "r" / "summary.json").read_text())["rounds"]
    )
    for key in ("heldout_accuracy_mean", "bytes_up", "bytes_down", "teacher_accuracy", "teacher_ece"):
        served_value, simulated_value = (
            json.loads((tmp_path / run / "summary.json").read_text())[key] for run in ("r", "s")
        )
        assert served_value == simulated_value, key
    assert (tmp_path / "exchange" / "done").read_text() == "complete"
    for arguments, message in (
        ([*serve, "--out", "r2"], "already holds an exchange"),
        ([*serve[:3], "e2", *serve[4:], "--out", "r"], "r already holds a run"),
        ([*serve, "train.lr=0.1", "--resume", "--out", "r"], "is of another config"),
        ([*serve, "--out", "r2", "--resume"], "already holds an exchange"),
        ([*serve, "--resume"], "--resume needs --out"),
        (["partition", *settings, "--out", "data"], "data exists already"),
        (["compare", "r"], "no common test set"),
    ):
        before = sorted(tmp_path.rglob("*"))
        done = edgefd(*arguments, cwd=tmp_path, PYTHONPATH=path)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_c_keeps_the_completed_rounds_and_ends_the_workers(tmp_path: Path) -> None:
    arguments = command("simulate", QUICKSTART, "baselines=[]", "train.rounds=1000", "--out", "r")
    process = subprocess.Popen(
        arguments,
        cwd=tmp_path,
        env=env({}),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.1)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    done = metrics.read_text().count("\n")
    assert stderr.decode() == f"stopped; the rounds done so far ({done}) are in r\n"
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["complete"] is False
    assert summary["rounds"] == done
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", QUICKSTART, "--out", "b"), "this needs onnx: pip install 'edgefd[export]'"),
        (("simulate", QUICKSTART, "run.learner=onnx", "--out", "r"), "this needs onnx: pip install 'edgefd[export]'"),
    ],
)
def test_the_error_without_a_package_names_the_extra_to_install(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    program = (
        "import edgefd.core.errors as e; find = e.find_spec\n"
        "e.find_spec = lambda name: None if name == 'onnx' else find(name)\n"
        "from edgefd.cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env({}), timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_command_without_its_extra_names_it(tmp_path: Path) -> None:
    program = "import sys; sys.modules['typer'] = None; from edgefd.__main__ import main; main()"
    arguments = [sys.executable, "-c", program, "methods"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=env({}), timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: this needs typer: pip install 'edgefd[sim]'\n"
    arguments = [sys.executable, "-m", "edgefd", "methods"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=env({}), timeout=60)
    assert done.returncode == 0, done.stderr


FAULTY = """
import errno, os, signal
from edgefd.core import json_files
from edgefd.federation.distillation import teacher_rows
from edgefd.federation.method import Method

def fill_disk():
    def append(path, blob):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    json_files.append = append

def distillation_targets(ctx, teacher):
    if ctx.data.client == 3:
        {fault}
    return teacher_rows(ctx, teacher)

METHOD = Method(
    name="faulty", summary="fails in client 3, in the second round", distillation_targets=distillation_targets
)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message", "workers"),
    [
        ("raise ZeroDivisionError('no data')", "client 3 failed: ZeroDivisionError: no data", 0),
        ("raise ZeroDivisionError('no data')", "client 3 failed: ZeroDivisionError: no data", 2),
        ("os.kill(os.getpid(), signal.SIGKILL)", "client 3 failed: its worker process died", 2),
        ("fill_disk()", "cannot write r/metrics.jsonl: No space left on device", 0),
    ],
)
def test_a_failing_client_ends_the_run_and_keeps_the_completed_rounds(
    tmp_path: Path, fault: str, message: str, workers: int
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY.format(fault=fault))
    path = f"{ROOT}:{ROOT / 'proto'}:{tmp_path}"
    arguments = (*QUICK[:4], "method.name=faulty:METHOD", f"run.workers={workers}", "--out", "r")
    done = edgefd("simulate", QUICKSTART, *arguments, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stderr.endswith("; the rounds done so far (1) are in r\n")
    assert done.stderr.count("\n") == 1
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["complete"], summary["rounds"]) == (False, 1)


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
