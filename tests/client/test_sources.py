"""Private data of a device: from npz, csv and image folders to the training data and held-out data of the client."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.sources import CsvTable, DataSource, ImageFolder, NpzSource, client_data, read_samples, scaled
from PIL import Image

from edgefd.core.errors import UserError
from edgefd.federation.clients import ClientData
from edgefd.wire.bundle_reader import read_bundle
from tests.support.bundles import SHAPE, small_bundle
from tests.support.federations import ExportedFederation


def data_of(source: DataSource, federation: ExportedFederation, client: int = 0) -> ClientData:
    bundle = federation.read()
    return client_data(read_samples(source, bundle), bundle, client)


def test_npz_csv_and_image_folder_give_the_same_scaled_samples(tmp_path: Path) -> None:
    bundle = read_bundle(small_bundle(tmp_path / "b"))
    image = np.full((16, 16), 12, np.uint8)
    np.savez(tmp_path / "d.npz", x=image[None, None], y=np.array([2]))
    (tmp_path / "images" / "2").mkdir(parents=True)
    Image.fromarray(image).save(tmp_path / "images" / "2" / "a.png")
    (tmp_path / "d.csv").write_text(",".join(["2", *["12"] * 256]) + "\n")
    csv, images = CsvTable(tmp_path / "d.csv", SHAPE, 3), ImageFolder(tmp_path / "images", SHAPE)
    for source in (NpzSource(tmp_path / "d.npz"), images, csv):
        x, y = scaled(*source.load(), bundle)
        assert x.dtype == np.float32
        assert (x == 1).all()
        assert y.tolist() == [2]
    np.savez(tmp_path / "d.npz", x=image[None, None], y=np.array([3]))
    with pytest.raises(UserError, match="0 to 2"):
        scaled(*NpzSource(tmp_path / "d.npz").load(), bundle)


def test_exported_client_data_are_those_of_the_simulation(federation: ExportedFederation) -> None:
    for expected in federation.prepared.federation.clients:
        data = federation.client(expected.client)
        for name in ("x", "y", "x_heldout", "y_heldout", "contributed", "contributed_y"):
            assert np.array_equal(getattr(data, name), getattr(expected, name)), name


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_heldout": np.zeros((1, 1, 28, 28))}, "both x_heldout and y_heldout"),
        ({"y": np.full(4, 10)}, "labels must be"),
        ({"x": np.zeros((4, 3))}, "samples of shape"),
        ({"owned": np.array([10**6])}, "owned must be"),
        (
            {"owned": np.array([1, 2]), "owned_y": np.array([1])},
            r"owned_y: 2 samples need 2 labels, not an array of shape \[1\]",
        ),
        (
            {"owned": np.array([1]), "owned_y": np.array([10])},
            "owned_y: labels must be those of the federation, 0 to 9",
        ),
        ({"owned_y": np.array([1])}, "has owned_y, labels of contributed rows, but not owned"),
        ({"x": np.zeros((1, 1, 28, 28), np.uint8), "y": np.zeros(1)}, "2 or more"),
        ({"x_heldout": np.full((1, 1, 28, 28), np.nan), "y_heldout": np.zeros(1)}, "finite"),
    ],
)
def test_data_that_do_not_fit_the_bundle_are_refused(
    federation: ExportedFederation, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    valid = {"x": np.zeros((4, 1, 28, 28), np.uint8), "y": np.arange(4)}
    np.savez(tmp_path / "d.npz", **(valid | arrays))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        data_of(NpzSource(tmp_path / "d.npz"), federation)


def test_a_share_of_the_samples_is_held_out_if_the_data_name_none(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).integers(0, 255, (20, 1, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 10)
    data = data_of(NpzSource(tmp_path / "d.npz"), federation, 2)
    assert (len(data.x), len(data.x_heldout), len(data.contributed)) == (18, 2, 0)


KINDS = ["u1", "i1", ">i2", "i8", "u8", "f2", "f4", ">f8", "c8", "?", "S3", "M8[s]", [("a", "f4")], "O", "V4"]
SHAPES = [(12, 1, 28, 28), (12, 28, 28), (12, 1), (12, 10), (12,), (12, 0), (0, 1, 28, 28), (0,), ()]


def any_array(rng: np.random.Generator) -> np.ndarray:
    """Return an array of a random kind and shape: pixels, fractions, labels or huge numbers, at times with NaN."""
    shape, kind = SHAPES[rng.integers(len(SHAPES))], np.dtype(KINDS[rng.integers(len(KINDS))])
    values = [rng.integers(0, 256, shape), rng.random(shape), rng.integers(0, 10, shape), rng.random(shape) * 1e300]
    array = np.asarray(values[rng.integers(4)])
    if array.dtype.kind == "f" and array.size and rng.random() < 0.3:
        array.flat[0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers that the kind does not hold
        return np.zeros(shape, kind) if kind.kind in "VM" else array.astype(kind)


def test_no_content_of_an_npz_ends_in_another_error_than_one_line(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    rng, bundle, usable = np.random.default_rng(0), federation.read(), 0
    valid = {"x": rng.integers(0, 256, (12, 1, 28, 28)).astype(np.uint8), "y": np.arange(12) % 10}
    for _ in range(300):
        names = rng.choice(["x", "y", "x_heldout", "y_heldout", "owned", "owned_y"], rng.integers(0, 3), replace=False)
        np.savez(tmp_path / "d.npz", **valid | {name: any_array(rng) for name in names})  # type: ignore[arg-type]
        try:
            data = client_data(read_samples(NpzSource(tmp_path / "d.npz"), bundle), bundle, 0)
        except UserError as error:
            message = str(error)
        else:
            usable, message = usable + 1, ""
            assert np.isfinite(data.x).all()
            assert data.y.dtype == np.int64
        assert "\n" not in message
    assert 0 < usable < 250
