"""The frontier of audited runs: the content of its rows, and the error for a claim that does not hold."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgefd.config.load import parse_config
from edgefd.runs.folder import write_config

SCRIPT = Path(__file__).parents[2] / "simulations" / "frontier.py"
PRIVATE = {"proxy": {"source": "public"}, "method": {"name": "fedmd"}, "defence": {"name": "noise", "epsilon": 2.0}}


def attack(name: str, adversary: str, round: int | None, auc: float, epsilon: float) -> dict[str, Any]:
    area = {"value": auc, "low": auc - 0.01, "high": auc + 0.01}
    rate = {"tpr": {"value": 0.02}}
    result = {"attack": name, "adversary": adversary, "round": round, "auc": area, "tpr": {"1%": rate}}
    return result | {"epsilon": {"clopper_pearson": epsilon}}


def audited(folder: Path, config: dict[str, Any], claimed: float | None, measured: float, low: float = 0.45) -> Path:
    (folder / "audit").mkdir(parents=True)
    write_config(folder, parse_config(config))
    summary = {"accuracy_mean": 0.5, "bytes_up": 12_345, "epsilon_claimed": claimed, "delta_claimed": claimed and 1e-5}
    (folder / "summary.json").write_text(json.dumps(summary))
    attacks = [
        attack("loss", "server", 0, 0.9, 0.0),
        attack("loss", "server", 5, 0.6, measured),
        attack("rmia", "server", 5, 0.7, 0.1),
        attack("entropy", "server", 5, low, 0.0),
        attack("mask", "server", None, 0.99, 0.0),
        attack("lira", "holder", None, 0.8, 3.0),
    ]
    result = {"valid": True, "failed_controls": [], "membership": attacks}
    (folder / "audit" / "audit.json").write_text(json.dumps(result))
    return folder


def script() -> Any:
    spec = importlib.util.spec_from_file_location("frontier", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["frontier"] = module
    spec.loader.exec_module(module)
    return module


def test_a_row_holds_the_servers_best_attack_in_the_last_round(tmp_path: Path) -> None:
    frontier = script()
    plain = frontier.point(audited(tmp_path / "a", {"codec": {"name": "uint4"}}, None, 0.4))
    assert plain.cells[:4] == ("edgefd", "contributed rows, uint4", "0.500", "12")
    assert plain.cells[4:] == ("0.700 [0.690, 0.710] rmia", "0.020", "none", "3.00")
    private = frontier.point(audited(tmp_path / "b", PRIVATE, 2.0, 0.4))
    assert private.cells[1] == "noise epsilon=2.0"
    assert private.cells[6:] == ("2", "0.40")  # the claim of noise does not cover a holder of the model
    assert not private.broken
    inverted = frontier.point(audited(tmp_path / "c", PRIVATE, 2.0, 0.4, low=0.2))
    assert inverted.cells[4:6] == ("0.800 [0.790, 0.810] entropy, inverted", "not known")


@pytest.mark.parametrize(("measured", "code"), [(1.9, 0), (2.1, 1)])
def test_a_measured_epsilon_above_the_claimed_one_is_an_error(measured: float, code: int, tmp_path: Path) -> None:
    run = audited(tmp_path / "run", PRIVATE, 2.0, measured)
    done = subprocess.run([sys.executable, SCRIPT, run], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert ("the measured epsilon is above the claimed one: noise epsilon=2.0" in done.stderr) == bool(code)
    assert done.stdout.count("\n") == 3
