"""docs/guides/own-data.md: every config and every program of the page works on data as the page describes them."""

import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from edgefd.config.load import load_config
from edgefd.data.datasets import Dataset
from edgefd.runs.load_data import load_data
from tests.support.commands import edgefd

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "own-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FILES = {match[1]: text for _, text in BLOCKS if (match := re.match(r"# ([\w.]+\.(?:py|yaml))\n", text))}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with the data that the page describes and the files that it shows."""
    rng = np.random.default_rng(0)
    kinds, shares = np.array(["walk", "run", "sit"]), ([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7])
    centres, device = rng.normal(size=(3, 8)), np.repeat(np.arange(12), 80)
    kind = np.array([rng.choice(3, p=shares[d % 3]) for d in device])
    x = np.round(centres[kind] + rng.normal(0, 1.2, (960, 8)), 3)
    columns = {"device": [f"watch-{d:02d}" for d in device], "kind": kinds[kind], "count": rng.integers(0, 9, 960)}
    table = pa.table(columns | {f"acc_{i}": x[:, i] for i in range(8)})
    pq.write_table(table, tmp_path / "measurements.parquet")
    pq.write_table(table.slice(0, 7).drop_columns("kind"), tmp_path / "new_rows.parquet")
    rows = [table.column_names, *zip(*table.to_pydict().values(), strict=True)]
    (tmp_path / "measurements.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    for i in range(20):
        (tmp_path / "pets" / ("cats", "dogs")[i % 2]).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (40 + i, 50, 3), np.uint8))
        image.save(tmp_path / "pets" / ("cats", "dogs")[i % 2] / f"{i}.jpg")
    np.savez(tmp_path / "mine.npz", x=rng.integers(0, 255, (60, 20, 24, 3), np.uint8), y=kinds[np.arange(60) % 3])
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(name: str) -> Dataset:
    return load_data(load_config(name))


def test_the_configs_of_the_page_read_the_data_that_it_describes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    exec(FILES["save.py"])
    first = loaded("compare.yaml")
    assert (len(first.x_train), len(first.x_test), first.label_names) == (800, 160, ("run", "sit", "walk"))
    assert f"# measurements from {first.source}: 800 + 160 samples" in PAGE
    assert loaded("table.yaml").x_train.shape == (672, 9)
    assert loaded("images.yaml").x_train.shape == (16, 3, 32, 32)
    saved = loaded("hugging_face.yaml")
    assert (saved.x_train.shape, saved.label_names) == ((800, 8), ("run", "sit", "walk"))
    assert saved.sha256 == first.sha256
    assert loaded("arrays.yaml").x_train.shape == (48, 3, 20, 24)
    assert {f"{name}.yaml" for name in ("compare", "table", "images", "hugging_face", "arrays")} <= FILES.keys()


@pytest.mark.slow
def test_the_programs_for_a_session_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = [text for language, text in BLOCKS if language == "python" and "edgefd.simulate" in text]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 5)).astype(np.float32), np.arange(150) % 3 + 1
    sets = [
        TensorDataset(torch.from_numpy(x[part]), torch.from_numpy(y[part])) for part in (slice(120), slice(120, 150))
    ]
    arrays = {"x_train": x[:120], "y_train": y[:120], "x_test": x[120:], "y_test": y[120:]}
    exec(program, {**arrays, "train_set": sets[0], "test_set": sets[1]})
    assert capsys.readouterr().out.startswith("('1', '2', '3') ")


@pytest.mark.slow
def test_ten_minutes_end_with_a_comparison_and_a_report(folder: Path) -> None:
    (commands,) = [text for language, text in BLOCKS if language == "sh"]
    outputs = []
    for line in commands.splitlines():
        program, *arguments = line.partition("#")[0].split()
        assert program == "edgefd"
        more = ["train.rounds=2"] if arguments[:2] == ["simulate", "compare.yaml"] else []
        done = edgefd(*arguments[:2], *more, *arguments[2:], cwd=folder)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    (shown,) = [text for language, text in BLOCKS if language == "text"]
    for line in shown.splitlines():
        if "values from" not in line:
            assert line in outputs[0]
    assert set(outputs[4].split()) <= {"run", "sit", "walk"}
    assert len(outputs[4].split()) == 7
    assert "is complete already" in outputs[5]
    for method in ("edgefd", "fedmd", "indlearn"):
        assert method in outputs[2]
    report = (folder / "runs" / "first" / "report.html").read_text(encoding="utf-8")
    assert "class 0: run" in report
