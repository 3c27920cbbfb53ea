"""Commands where the machine lacks something: a home folder, a known user, UTF-8, folders that can be written."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgefd.config.load import load_config
from edgefd.core.errors import UserError
from edgefd.core.paths import user_path
from edgefd.data.cache import cache_folder
from edgefd.data.datasets import find_dataset
from edgefd.runs.folder import run_folder
from tests.support.commands import QUICKSTART, ROOT, edgefd, env

SMALL = (
    *("baselines=[]", "data.limit=300", "train.rounds=1", "partition.n_clients=2", "partition.name=weak"),
    *("run.workers=2", "method.n_clusters=3"),
)
NOBODY = """
import os, pwd, sys
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
"""


def as_nobody(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `edgefd` as a user whom the system does not know and who has no HOME."""
    program = f"{NOBODY}\nfrom edgefd.cli.main import main; main()"
    environment = {k: v for k, v in env(variables).items() if k not in ("HOME", "XDG_CACHE_HOME") or k in variables}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)


@pytest.fixture
def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "EDGEFD_DATA"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_a_run_needs_no_home_folder_and_leaves_nothing_but_its_run_folder(tmp_path: Path) -> None:
    done = as_nobody("simulate", QUICKSTART, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_code_is_compiled_where_no_folder_can_be_written(tmp_path: Path) -> None:
    copy = tmp_path / "copy"  # a package whose folder has no place for compiled code
    program = f"""{NOBODY}
import shutil
from pathlib import Path
copy = Path({str(copy)!r})
copy.mkdir()
shutil.copytree({str(ROOT / "edgefd")!r}, copy / "edgefd", ignore=shutil.ignore_patterns("__pycache__"))
sys.path.insert(0, str(copy))
sys.dont_write_bytecode = True
real = os.access
os.access = lambda path, mode, **more: False if str(path).startswith(str(copy)) else real(path, mode, **more)
import numba.core.caching
def refuse(self): raise PermissionError(13, "Permission denied")
numba.core.caching._CacheLocator.ensure_cache_path = refuse
import edgefd.learners.max_pool_relu as module
assert module.__file__.startswith(str(copy))
import torch
x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
assert torch.equal(module.pool_relu(x), torch.relu(torch.nn.functional.max_pool2d(x, 2)))
"""
    for home in ({}, {"HOME": str(tmp_path)}):
        done = subprocess.run(
            [sys.executable, "-c", program if not home else program.replace('os.environ.pop("HOME", None)', "")],
            capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env(home) if home else env({}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        subprocess.run(["rm", "-rf", str(copy)], check=True)
        assert list(tmp_path.iterdir()) == []


def test_data_are_found_without_a_home_folder_and_a_missing_cache_is_named(without_home: None) -> None:
    assert find_dataset("mnist_mini") is not None
    assert find_dataset("cifar10") is None
    with pytest.raises(UserError, match="no home folder for caches: set XDG_CACHE_HOME"):
        cache_folder("features")
    with pytest.raises(UserError, match="the home folder in ~/x is not known: write the whole path"):
        user_path("~/x")


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text(
        "data: {name: ~/d.npz, extractor: ~/e.onnx}\nproxy: {source: public, path: ~/p.npz}\n"
    )
    config = load_config("~/c.yaml", ["partition={name: file, path: ~/s.json}"])
    paths = (config.data.name, config.data.extractor, config.proxy.path, config.partition.path)  # type: ignore[union-attr]
    assert paths == tuple(str(tmp_path / name) for name in ("d.npz", "e.onnx", "p.npz", "s.json"))
    done = edgefd("simulate", "~/quick.yaml", "--out=~/run", cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"cannot read {tmp_path}/quick.yaml" in done.stderr.replace("\n", "")
    done = edgefd("partition", QUICKSTART, *SMALL, "--out=~/parts", cwd=ROOT, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "parts" / "client-000.npz").exists()


def test_a_path_with_a_null_character_is_refused() -> None:
    with pytest.raises(UserError, match="holds a null character"):
        load_config({"proxy": {"source": "public", "path": "a\0b"}})


def test_names_of_other_languages_are_shown_on_a_terminal_without_them(tmp_path: Path) -> None:
    variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    folder = tmp_path / "déjà vu ☃"
    folder.mkdir()
    done = edgefd("simulate", QUICKSTART, *SMALL, "--out", "rün ☃", cwd=folder, **variables)
    assert done.returncode == 0, done.stderr
    assert "run folder: r" in done.stdout
    assert "\\u2603" in done.stdout
    for arguments in (("report", "rün ☃"), ("compare", "rün ☃"), ("check", QUICKSTART, *SMALL), ("datasets",)):
        done = edgefd(*arguments, cwd=folder, **variables)
        assert done.returncode == 0, done.stderr
    done = edgefd("simulate", "nö ☃.yaml", cwd=folder, **variables)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "\\u2603.yaml: No such file" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_working_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = edgefd("simulate", QUICKSTART, *SMALL, cwd=tmp_path)
    assert (done.returncode, "cannot write run folder" in done.stderr) == (2, True)


def test_runs_of_one_second_have_their_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, mkdir = load_config(QUICKSTART), Path.mkdir
    (tmp_path / "runs").mkdir()

    def slow(path: Path, *arguments: object, **options: object) -> None:
        """Let another run create the first folder just before this one."""
        if path.parent.name == "runs" and not path.name.endswith(("-2", "-3")):
            mkdir(path)
        mkdir(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", slow)
    with run_folder(config, None) as folder:
        assert folder.name.endswith("-2")
    with pytest.raises(UserError, match="exists already"), run_folder(config, next((tmp_path / "runs").iterdir())):
        pass


@pytest.mark.slow
def test_three_commands_at_once_have_three_run_folders(tmp_path: Path) -> None:
    program = "from edgefd.cli.main import main; main()"
    command = [sys.executable, "-c", program, "simulate", QUICKSTART, *SMALL, "run.workers=0"]
    runs = [subprocess.Popen(command, cwd=tmp_path, env=env({}), stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [run.wait(120) for run in runs] == [0, 0, 0]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "runs").iterdir()]
    assert len(summaries) == 3
    assert len({summary["accuracy_mean"] for summary in summaries}) == 1


def test_only_one_module_imports_onnx_runtime_because_its_telemetry_must_be_off_before() -> None:
    files = [p for part in ("edgefd", "client", "server") for p in (ROOT / part).rglob("*.py")]
    direct = ("import onnxruntime", "from onnxruntime")
    importing = [p.name for p in files if any(line.strip().startswith(direct) for line in p.read_text().splitlines())]
    assert importing == ["session.py"]
