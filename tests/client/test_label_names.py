"""Labels that are text in the data of the federation: devices map theirs by the names in the manifest."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.sources import client_data, read_samples, source_of

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import PreparedRun, prepare
from edgefd.simulation.client_files import export_client_data
from edgefd.wire.bundle_reader import Bundle, parse_manifest, read_bundle
from tests.support.bundles import small_bundle

NAMES = ("run", "sit", "walk")
N, D = 120, 6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedRun, Bundle, Path]:
    """Return a federation of a table with text labels, its bundle, and the folder of both."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    with (folder / "d.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", *(f"f{i}" for i in range(D))])
        for i in range(N):
            writer.writerow([NAMES[i % 3], *np.round(rng.normal(i % 3, 1, D), 3)])
    partition = {"name": "iid", "n_clients": 2}
    data = {"name": str(folder / "d.csv"), "label": "kind"}
    config = parse_config({"data": data, "partition": partition, "model": "mlp", "train": {"rounds": 1}})
    export_config(config, None, folder / "bundle")
    prepared = prepare(config)
    export_client_data(prepared, folder / "clients")
    return prepared, read_bundle(folder / "bundle"), folder


def test_the_manifest_and_the_record_of_the_run_hold_the_names(table: tuple[PreparedRun, Bundle, Path]) -> None:
    prepared, bundle, folder = table
    assert bundle.manifest.label_names == NAMES
    assert prepared.facts.partition["label_names"] == list(NAMES)
    with np.load(folder / "clients" / "client-000.npz") as file:
        assert set(file["y"]) <= set(NAMES)
    assert read_bundle(small_bundle(folder / "numbers")).manifest.label_names is None


def test_files_of_the_simulation_give_a_device_the_same_classes(table: tuple[PreparedRun, Bundle, Path]) -> None:
    prepared, bundle, folder = table
    for expected in prepared.federation.clients:
        path = folder / "clients" / f"client-{expected.client:03d}.npz"
        data = client_data(read_samples(source_of(path, bundle.manifest), bundle), bundle, expected.client)
        for name in ("x", "y", "x_heldout", "y_heldout", "contributed_y"):
            np.testing.assert_array_equal(getattr(data, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("header", ["", "label,a,b,c,d,e,f\n"])
def test_a_csv_file_of_a_device_has_the_labels_of_the_federation(
    table: tuple[PreparedRun, Bundle, Path], tmp_path: Path, header: str
) -> None:
    path = tmp_path / "d.csv"
    path.write_text(header + "walk,1,2,1,2,1,2\nrun,0,0,1,0,0,1\n1,0,0,1,0,0,1\n")
    bundle = table[1]
    assert read_samples(source_of(path, bundle.manifest), bundle).y.tolist() == [2, 0, 1]
    path.write_text(header + "walk,1,2,1,2,1,2\nfly,0,0,1,0,0,1\n")
    with pytest.raises(UserError, match=r"federation, run, sit, walk, but sample 1 \(from 0\) has fly"):
        read_samples(source_of(path, bundle.manifest), bundle)


def test_names_that_are_numbers_are_read_as_names(table: tuple[PreparedRun, Bundle, Path], tmp_path: Path) -> None:
    bundle = replace(table[1], manifest=replace(table[1].manifest, label_names=("1", "2", "3")))
    path = tmp_path / "d.csv"
    path.write_text("3,1,2,1,2,1,2\n1.0,0,0,1,0,0,1\n")
    assert read_samples(source_of(path, bundle.manifest), bundle).y.tolist() == [2, 0]
    np.savez(tmp_path / "d.npz", x=np.ones((2, D), np.float32), y=[0, 1])
    with pytest.raises(UserError, match=r"federation, 1, 2, 3, but sample 0 \(from 0\) has 0"):
        read_samples(source_of(tmp_path / "d.npz", bundle.manifest), bundle)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"], []])
def test_a_manifest_with_other_names_than_classes_is_refused(
    table: tuple[PreparedRun, Bundle, Path], names: list[str]
) -> None:
    fields = json.loads((table[2] / "bundle" / "manifest.json").read_text())
    with pytest.raises(UserError, match="label_names must be 3 different names"):
        parse_manifest(json.dumps(fields | {"label_names": names}).encode())
