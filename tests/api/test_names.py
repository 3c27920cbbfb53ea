"""The names of `import edgefd`: light to import, documented, and typed."""

import subprocess
import sys
from pathlib import Path

import pytest

import edgefd

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "python.md"
SNIPPET = """
import math
from pathlib import Path
import numpy as np
import torch
import edgefd

def split(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return np.array_split(rng.permutation(len(labels)), 4)

def network(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), classes))

class Printer(edgefd.Callback):
    def on_start(self, run: edgefd.RunInfo) -> None:
        print(run.name)

config: edgefd.Config = edgefd.load_config({"method": {"name": "edgefd"}}, {"train.rounds": 2})
method: edgefd.Method = edgefd.get_method("fedmd")
x, y = np.zeros((9, 4), np.float32), np.arange(9) % 3
try:
    run: edgefd.Run = edgefd.simulate(config, ["seed=1"], method=method, model=[network, "mlp"], data=(x, y, x, y),
        partition=split, out="runs/one", callbacks=[Printer()], progress=True)
    other = edgefd.simulate("config.yaml", model=network, data=Path("own.npz"), partition="iid")
except (edgefd.UserError, edgefd.RunError) as error:
    print(error)
teacher: edgefd.Knowledge | None = run.teacher
module: torch.nn.Module = run.models[0]
page: Path = run.report()
accuracy = float(run.summary["accuracy_mean"]) + len(run.metrics.tail()) + len(run.baselines["fedmd"].rounds)
folders: list[Path] = edgefd.sweep({"base": {}, "grid": {"seed": [0, 1]}}, jobs=2, on_done=print)
print(edgefd.compare([run, other]), edgefd.compare(folders, over="seed"), edgefd.compare("runs"), edgefd.__version__)
print(edgefd.audit(run, level=1)["valid"], edgefd.audit("runs/one", level=2, shadows=8)["valid"])
run.plot().savefig("accuracy.png")
labels = edgefd.load_model(run, 0).predict(x)
edgefd.plot([run, "runs/two"], kind="bytes").savefig("bytes.png")
print(edgefd.KMeansDRE(50).fit(x, reference=x).score_samples(x))
"""


@pytest.mark.parametrize("name", edgefd.__all__)
def test_every_name_resolves_and_is_documented(name: str) -> None:
    assert name in dir(edgefd)
    assert (getattr(edgefd, name).__doc__ or "").strip()
    assert name == "__version__" or f"`edgefd.{name}" in GUIDE.read_text(encoding="utf-8")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgefd' has no attribute 'simulat'"):
        _ = edgefd.simulat


def test_names_survive_the_import_of_the_rooms_behind_them() -> None:
    program = (
        "import edgefd, edgefd.auditing.run_audit, edgefd.simulation.sweep\n"
        "from edgefd import *\n"
        "assert callable(edgefd.audit) and audit is edgefd.audit and sweep is edgefd.sweep"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=ROOT)


def test_importing_edgefd_imports_nothing_else_and_a_missing_package_is_named() -> None:
    program = (
        "import sys; before = set(sys.modules); import edgefd\n"
        "print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in sys.stdlib_module_names))\n"
        "sys.modules['pydantic'] = None\n"
        "try: edgefd.simulate\n"
        "except ImportError as error: print(error)\n"
        "print(edgefd.KMeansDRE(3), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, timeout=120, cwd=ROOT, capture_output=True, text=True)
    imported, message, estimator = done.stdout.splitlines()
    assert imported == "['edgefd', 'edgefd.core', 'edgefd.core.version']"
    assert message == "edgefd.simulate needs pydantic: pip install 'edgefd[sim]'"
    assert estimator.startswith("KMeansDRE(n_clusters=3, ")
    assert estimator.endswith(" False")


@pytest.mark.slow
def test_a_script_that_uses_every_name_passes_mypy_strict(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SNIPPET)
    assert [name for name in edgefd.__all__ if f"edgefd.{name}" not in SNIPPET] == []
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout
