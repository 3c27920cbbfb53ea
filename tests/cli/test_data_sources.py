"""Bad data of a user, as the command line reports them: one line, exit code 2, nothing written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.commands import edgefd
from tests.support.one_line import one_line

N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table, a damaged table, and images of several sizes."""
    folder = tmp_path_factory.mktemp("data")
    kind, device = [("run", "sit")[i % 2] for i in range(N)], ["d0"] * (N - 9) + ["d1"] * 8 + ["d2"]
    table = pa.table({"kind": kind, "device": device, "acc": np.arange(N) / N, "acc_y": np.ones(N)})
    pq.write_table(table, folder / "m.parquet")
    pq.write_table(table.set_column(0, "kind", [["fly", *kind[1:]]]), folder / "test.parquet")
    pq.write_table(table.rename_columns(["kind", "device", "acc", "acc"]), folder / "twice.parquet")
    (folder / "cut.parquet").write_bytes((folder / "m.parquet").read_bytes()[:-9])
    for i in range(4):
        (folder / "pets" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((16 + i, 16), np.uint8)).save(folder / "pets" / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.name=m.parquet", "data.label=knd"], ["no column 'knd' (data.label): did you mean 'kind'?"]),
        (["data.name=m.parquet", "data.label=kind", "data.features=[gyr_*]"], ["no column 'gyr_*' (data.features)"]),
        (
            ["data.name=m.parquet", "data.label=kind", "data.features=acc"],
            ["data.features: Input should be a valid array"],
        ),
        (["data.name=twice.parquet", "data.label=kind"], ["2 columns are named 'acc': rename all but one"]),
        (["data.name=cut.parquet", "data.label=kind"], ["cannot read cut.parquet"]),
        (["data.name=gone.parquet", "data.label=kind"], ["there is no file gone.parquet"]),
        (
            ["data.name=m.parquet", "data.label=kind", "data.features=[acc_y, acc]", "data.test=test.parquet"],
            ["the test label fly is not among the training labels"],
        ),
        (
            [
                "data={name: m.parquet, label: kind, features: [acc*], client: device, test: m.parquet}",
                *("partition={name: by_group}", "model=mlp", "train={rounds: 1}"),
            ],
            ["client 2 (d2) has 1 private samples, but needs 2 or more", "use data without this client"],
        ),
        (["data.name=pets"], ["16 x 18 pixels", "data.image_size"]),
        (["data.name=pets", "data.label=kind"], ["data.label is not for folders of images such as pets: remove it"]),
        (["data.image_size=0"], ["image_size must be from 1 to 4096, not 0"]),
        (["data.test_fraction=2"], ["test_fraction"]),
        (["model=net.py"], ["model 'net.py' is a file: name the class or the function in it, such as net.py:Net"]),
        (["partition={name: Iid}"], ["unknown partition 'Iid': did you mean 'iid'?"]),
        (["partition={name: NaturalIdPartitioner}"], ["or package.module:Class for one of your own"]),
        (["data.name=m.json"], ["unknown data set 'm.json'", ".parquet"]),
    ],
)
def test_bad_data_are_one_line_and_exit_2(folder: Path, settings: list[str], words: list[str]) -> None:
    before = sorted(folder.iterdir())
    one_line(edgefd("check", "simulations/quickstart.yaml", "baselines=[]", *settings, cwd=folder), 2, *words)
    assert sorted(folder.iterdir()) == before
