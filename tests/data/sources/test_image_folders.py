"""Folders of images with any names of classes, of several sizes, with or without a test set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgefd.core.errors import UserError
from edgefd.data.datasets import Source, load_dataset

RNG = np.random.default_rng(0)


def pictures(folder: Path, classes: tuple[str, ...] = ("cats", "dogs"), n: int = 10, grow: int = 0) -> str:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = RNG.integers(0, 255, (8 + grow * i, 9, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return str(folder)


def test_classes_have_any_names_and_a_part_is_the_test_set(tmp_path: Path) -> None:
    path = pictures(tmp_path / "pets")
    d = load_dataset(Source(path, test_fraction=0.3))
    assert (d.name, d.label_names) == ("pets", ("cats", "dogs"))
    assert (d.x_train.shape, d.x_test.shape) == ((14, 3, 8, 9), (6, 3, 8, 9))
    for x, y in zip((*d.x_train, *d.x_test), (*d.y_train, *d.y_test), strict=True):
        folder = tmp_path / "pets" / d.label_names[y]
        assert any(np.array_equal(np.asarray(Image.open(file)).transpose(2, 0, 1), x) for file in folder.iterdir())


def test_images_of_several_sizes_are_resized_on_request_or_refused(tmp_path: Path) -> None:
    path = pictures(tmp_path / "train", grow=1)
    with pytest.raises(UserError, match=r"1\.png is 9 x 9 pixels, .* 9 x 8 .*: resize it, or set data\.image_size"):
        load_dataset(path)
    d = load_dataset(Source(path, image_size=6, channels=1))
    assert (d.x_train.shape, d.x_train.dtype) == ((16, 1, 6, 6), np.uint8)
    grey = Image.open(Path(path) / "cats" / "0.png").convert("L").resize((6, 6), Image.Resampling.BILINEAR)
    distance = min(np.abs(x[0].astype(int) - np.asarray(grey)).max() for x in (*d.x_train, *d.x_test))
    assert distance <= 1, "grey first or resized first differ by rounding only"


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (("cats", "emus"), "the test label emus is not among the training labels, which have 2 values (cats, dogs)"),
        ((), "must hold a folder of images for each label"),
    ],
)
def test_the_test_set_has_the_classes_of_the_training_set(tmp_path: Path, test: tuple[str, ...], words: str) -> None:
    pictures(tmp_path / "train")
    (tmp_path / "test").mkdir()
    pictures(tmp_path / "test", test)
    with pytest.raises(UserError) as caught:
        load_dataset(str(tmp_path))
    assert words in str(caught.value)


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    path = pictures(tmp_path / "pets")
    (tmp_path / "pets" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt is not an image folder: move it elsewhere"):
        load_dataset(path)
    (tmp_path / "pets" / "notes.txt").rename(tmp_path / "pets" / "cats" / "notes.txt")
    with pytest.raises(UserError, match=r"notes\.txt is not an image that can be read"):
        load_dataset(path)
    with pytest.raises(UserError, match=r"data\.label is not for folders of images .*it takes test, test_fraction"):
        load_dataset(Source(path, label="x"))
    with pytest.raises(UserError, match="there is no folder"):
        load_dataset(str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"1 value \(cats\): two or more classes"):
        load_dataset(pictures(tmp_path / "one", ("cats",)))


@pytest.mark.parametrize("settings", [{"image_size": 0}, {"image_size": (4, 5000)}, {"test_fraction": 1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Source("x", **settings)  # type: ignore[arg-type]
