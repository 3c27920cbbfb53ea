"""The lines of `edgefd check` about data: figures of an npz file whose content is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.runs.describe_data import describe_data
from edgefd.runs.prepare import prepare


def save(path: Path, counts: list[int]) -> str:
    """Write samples float32 [2, 3] from -1 to 1: `counts` training samples and 5 test samples of each class."""
    y_train, y_test = np.repeat(np.arange(len(counts)), counts), np.repeat(np.arange(len(counts)), 5)
    x = np.linspace(-1, 1, len(y_train) * 6, dtype=np.float32).reshape(-1, 2, 3)
    np.savez(path, x_train=x, y_train=y_train, x_test=x[: len(y_test)], y_test=y_test)
    return str(path)


def described(path: str, **sections: dict[str, Any]) -> list[str]:
    raw = {"data": {"name": path}, "partition": {"name": "iid", "n_clients": 2}, "model": "linear", **sections}
    return describe_data(prepare(parse_config(raw)))


def test_classes_samples_and_counts_are_those_of_the_file(tmp_path: Path) -> None:
    lines = described(save(tmp_path / "own.npz", [40, 60, 100]))
    assert lines[0] == f"own from file {tmp_path / 'own.npz'}: 200 + 15 samples"
    assert lines[2:6] == [
        "  classes: 3, with the labels 0 to 2",
        "  samples: float32 [2, 3], training values from -1 to 1",
        "  training samples: 200, by class 0: 40, 1: 60, 2: 100",
        "  test samples: 15, 5 of each class",
    ]


@pytest.mark.parametrize(
    ("proxy", "disclosed", "source"),
    [
        ({}, 20, "0.1 of each client's samples, which the client does not keep"),
        ({"keep": True}, 20, "0.1 of each client's samples, which the client also keeps"),
        ({"source": "public"}, 0, "0.1 of the training set, taken before the split"),
    ],
)
def test_the_proxy_set_has_a_size_and_a_source(
    tmp_path: Path, proxy: dict[str, Any], disclosed: int, source: str
) -> None:
    lines = described(save(tmp_path / "own.npz", [100, 100]), proxy=proxy)
    assert f"2 clients, 20 proxy samples, {disclosed} raw samples disclosed" in lines
    assert f"  proxy set: {source}" in lines


def test_clients_of_different_sizes_are_summarised(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(str([list(range(20)), list(range(20, 60)), list(range(60, 160))]))
    lines = described(
        save(tmp_path / "own.npz", [80, 80]), partition={"name": "file", "path": str(tmp_path / "split.json")}
    )
    assert "  to train on, each client: min 16, median 32, max 81" in lines
    assert "  contributed, each client: min 2, median 4, max 10" in lines
    assert "  classes of each client: min 1, median 1, max 2" in lines


def test_many_classes_are_counted_and_not_listed(tmp_path: Path) -> None:
    lines = described(save(tmp_path / "own.npz", [4 + i % 3 for i in range(60)]))
    assert "  training samples: 300, by class min 4, median 5, max 6" in lines
