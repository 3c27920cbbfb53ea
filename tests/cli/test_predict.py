"""`edgefd predict` and `edgefd simulate --resume`, run as a user does."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import edgefd
from edgefd.data.datasets import load_dataset
from tests.support.commands import edgefd as command
from tests.support.small_configs import SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and the same 12 images as npy, npz, csv and png."""
    folder = tmp_path_factory.mktemp("predict")
    edgefd.simulate(SMALL, out=folder / "run")
    x = load_dataset("mnist_mini").x_test[:12]
    np.save(folder / "x.npy", x)
    np.save(folder / "unit.npy", x / np.float32(255))
    np.savez(folder / "x.npz", x=x[:, 0])
    np.savetxt(folder / "x.csv", x.reshape(12, -1), "%d", ",")
    labelled = np.column_stack([np.arange(12) % 10, x.reshape(12, -1)])
    np.savetxt(folder / "labelled.csv", labelled, "%d", ";", header=";".join(["label", *map(str, range(784))]))
    for i, image in enumerate(x):
        path = folder / "images" / str(i // 6) / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder


@pytest.mark.slow
def test_all_kinds_of_files_give_the_labels_of_the_model(folder: Path) -> None:
    expected = edgefd.load_model(folder / "run", 1).predict(np.load(folder / "x.npy")).tolist()
    for name in ("x.npy", "x.npz", "x.csv", "labelled.csv", "images"):
        done = command("predict", "run", "--client", "1", "--input", name, "--out", "y.csv", cwd=folder)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert [int(line) for line in done.stdout.split()] == expected, name
    head, *rows = (folder / "y.csv").read_text().splitlines()
    assert head == "sample,label," + ",".join(f"p({c})" for c in range(10))
    assert [row.split(",")[:2] for row in rows] == [[f"{i // 6}/{i:02d}.png", str(y)] for i, y in enumerate(expected)]
    assert all(abs(sum(map(float, row.split(",")[2:])) - 1) < 1e-5 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--client", "1", "--input", "unit.npy"],
            "unit.npy: the samples of the federation are uint8",
        ),
        (["run", "--client", "9", "--input", "x.npy"], "run has no client 9: its clients are 0 to 2"),
        (["gone", "--client", "0", "--input", "x.npy"], "gone keeps no models"),
        (["run", "--client", "0", "--input", "gone.npy"], "cannot read gone.npy: No such file or directory"),
        (["run", "--client", "0", "--input", "run"], "is not an image"),
        (
            ["run", "--client", "0", "--input", "x.bin"],
            "x.bin must be a .parquet, .csv (.tsv, .txt), .npy or .npz file",
        ),
        (["run", "--client", "0", "--input", "x.npy", "--round", "7"], "keeps no models of round 7, only of 2"),
        (["run", "--client", "0", "--input", "x.csv", "--out", "x.csv"], "x.csv is the input, which would be lost"),
        (["run", "--client", "0", "--input", "x.npy", "--out", "y.npy"], "--out must be a .csv file, not y.npy"),
    ],
)
@pytest.mark.slow
def test_bad_input_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    done = command("predict", *arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_resume_says_what_it_does(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    done = command("simulate", "--resume", "run", cwd=tmp_path)
    assert done.returncode == 0
    assert "the run in run is complete already" in done.stdout
    for arguments, message in (
        (["--resume", "run", "seed=3"], "the run in run is of another config: seed was 0, and is 3"),
        (["seed=3", "--resume", "run"], "the run in run is of another config: seed was 0, and is 3"),
        (["--resume", "gone"], "gone holds no run that has begun (no config.yaml)"),
        (["--resume", "run", "--out", "b"], "--resume names the run folder: remove --out"),
        ([], "give a CONFIG, such as simulations/quickstart.yaml, or --resume RUN"),
    ):
        done = command("simulate", *arguments, cwd=tmp_path)
        assert done.returncode == 2, arguments
        assert message in done.stderr, arguments
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_new_rows_of_a_table_are_found_by_the_names_of_their_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, kind = rng.normal(size=(120, 3)), np.array(["run", "sit"])[np.arange(120) % 2]
    columns = {"kind": kind, "a": x[:, 0] + (kind == "sit"), "b": x[:, 1], "c": x[:, 2]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    data = {"name": str(tmp_path / "m.parquet"), "label": "kind", "features": ["b", "a", "c"]}
    edgefd.simulate(SMALL | {"data": data, "partition": {"name": "iid", "n_clients": 2}}, out=tmp_path / "run")
    expected = edgefd.load_model(tmp_path / "run", 1).predict(np.stack([columns[c] for c in "bac"], 1).astype("f4"))
    new = {"c": columns["c"], "note": ["x"] * 120, "a": columns["a"], "b": columns["b"]}  # another order, no labels
    pq.write_table(pa.table(new), tmp_path / "new.parquet")
    rows = [new, *zip(*new.values(), strict=True)]
    (tmp_path / "new.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    for name in ("new.parquet", "new.csv"):
        done = command("predict", "run", "--client", "1", "--input", name, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert done.stdout.split() == expected.tolist(), name
    pq.write_table(pa.table({"a": [1.0], "b": [2.0]}), tmp_path / "less.parquet")
    pq.write_table(pa.table({"a": [1.0], "b": [None], "c": [3.0]}), tmp_path / "null.parquet")
    for name, words in (
        ("less.parquet", "less.parquet has no column 'c', which the model takes: there are a, b"),
        ("null.parquet", "null.parquet: column 'b'"),
        ("gone.parquet", "there is no file gone.parquet"),
    ):
        done = command("predict", "run", "--client", "1", "--input", name, cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
