"""Data sets that save_to_disk wrote: splits and columns are found or asked for; bad input in one line."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Array2D, ClassLabel, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from edgefd.core.errors import UserError
from edgefd.data.datasets import Source, load_dataset

datasets.disable_progress_bars()
RNG = np.random.default_rng(0)
N = 30
PIXELS = RNG.integers(0, 255, (N, 12, 16, 3), np.uint8)
NAMES = ["zebra", "ant", "yak"]
IMAGES = datasets.Dataset.from_dict(
    {"image": [Image.fromarray(x) for x in PIXELS], "label": np.arange(N) % 3},
    Features({"image": ImageFeature(), "label": ClassLabel(names=NAMES)}),
)


def saved(folder: Path, data: object) -> str:
    data.save_to_disk(folder / "d")  # type: ignore[attr-defined]
    return str(folder / "d")


def halves(*names: str) -> DatasetDict:
    size = N // len(names)
    return DatasetDict({name: IMAGES.select(range(i * size, (i + 1) * size)) for i, name in enumerate(names)})


def test_images_and_class_labels_are_found_by_their_types(tmp_path: Path) -> None:
    d = load_dataset(saved(tmp_path, halves("train", "test")))
    np.testing.assert_array_equal(d.x_train, PIXELS[:15].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(d.x_test, PIXELS[15:].transpose(0, 3, 1, 2))
    assert d.y_train.tolist() == [0, 1, 2] * 5
    assert d.label_names == tuple(NAMES)
    assert (d.name, d.source) == ("d", f"folder {tmp_path / 'd'}")


def test_a_data_set_without_splits_gives_a_test_set(tmp_path: Path) -> None:
    d = load_dataset(Source(saved(tmp_path, IMAGES), test_fraction=0.3, image_size=(6, 8), channels=1))
    assert (d.x_train.shape, d.x_test.shape) == ((21, 1, 6, 8), (9, 1, 6, 8))


def test_rows_that_were_selected_and_shuffled_keep_their_labels(tmp_path: Path) -> None:
    shuffled = IMAGES.shuffle(seed=3).select(range(20))
    path = saved(tmp_path, DatasetDict({"a": shuffled, "b": IMAGES}))
    d = load_dataset(Source(path, train="a", test="b"))
    labels = {x.tobytes(): i % 3 for i, x in enumerate(PIXELS.transpose(0, 3, 1, 2))}
    assert [labels[x.tobytes()] for x in d.x_train] == d.y_train.tolist()


def test_windows_tables_and_clients_are_read(tmp_path: Path) -> None:
    windows = RNG.normal(size=(N, 2, 40)).astype(np.float32)
    columns = {"window": windows, "kind": ["a", "b", "c"] * 10, "person": np.arange(N) // 6, "age": np.arange(N)}
    types = {"window": Array2D((2, 40), "float32"), "kind": Value("string")}
    path = saved(
        tmp_path,
        datasets.Dataset.from_dict(columns, Features({**types, "person": Value("int64"), "age": Value("int8")})),
    )
    with pytest.raises(UserError, match=r"which columns are the samples\? .*\(window, age\)"):
        load_dataset(Source(path, label="kind", client="person"))
    d = load_dataset(Source(path, label="kind", client="person", features=("window",)))
    assert (d.x_train.shape, d.x_train.dtype) == ((24, 2, 40), np.float32)
    assert {x.tobytes() for x in (*d.x_train, *d.x_test)} == {x.tobytes() for x in windows}
    assert d.group_train is not None
    assert np.bincount(d.group_train).tolist() == [6] * 4
    d = load_dataset(Source(path, label="kind", features=("age",)))
    assert d.x_train.shape == (24, 1)


def unlabelled(data: datasets.Dataset) -> datasets.Dataset:
    return data.map(lambda _: {"label": -1})


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (halves("train", "validation"), {}, "has no split test, but validation: set data.test to one of them, or"),
        (halves("a", "b"), {}, "has the splits a, b: set data.train to one of them"),
        (halves("train", "test"), {"test": "tset"}, "has no split 'tset' (data.test): did you mean 'test'?"),
        (halves("train", "test"), {"train": "trian"}, "has no split 'trian' (data.train): did you mean 'train'?"),
        (halves("train", "test"), {"test": "train"}, "data.test and data.train are the same split"),
        (halves("train", "test"), {"label": "lable"}, "has no column 'lable' (data.label): did you mean 'label'?"),
        (halves("train", "test"), {"features": ("img",)}, "has no column 'img' (data.features)"),
        (halves("train", "test"), {"test_people": (1,)}, "data.test_people is not for Hugging Face data sets"),
        (
            IMAGES.rename_column("label", "kind").cast_column("kind", Value("int64")),
            {},
            "which column holds the labels?",
        ),
        (
            DatasetDict({"train": IMAGES, "test": unlabelled(IMAGES)}),
            {},
            "split test holds samples without labels (-1)",
        ),
        (DatasetDict({"train": IMAGES.select([0, 1, 3]), "test": IMAGES}), {}, "the test label yak is not among"),
    ],
)
def test_bad_settings_and_data_are_one_line(
    tmp_path: Path, data: object, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(Source(saved(tmp_path, data), **settings))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_are_resized_on_request_or_refused(tmp_path: Path) -> None:
    images = [Image.fromarray(x[: 12 - i % 2]) for i, x in enumerate(PIXELS)]
    mixed = datasets.Dataset.from_dict({"image": images, "label": np.arange(N) % 3}, IMAGES.features)
    path = saved(tmp_path, mixed)
    with pytest.raises(
        UserError, match=r"split train, image, row 1 \(from 0\) is 16 x 11 pixels, .* 16 x 12 .*image_size"
    ):
        load_dataset(path)
    assert load_dataset(Source(path, image_size=8)).x_train.shape == (24, 3, 8, 8)


def test_missing_and_damaged_images_name_their_row(tmp_path: Path) -> None:
    rows = [None if i == 4 else {"bytes": b"no image", "path": None} for i in range(N)]
    damaged = datasets.Dataset.from_dict({"image": rows, "label": np.arange(N) % 3}, IMAGES.features)
    with pytest.raises(UserError, match=r"column 'image' has no image in row 4 \(from 0\)"):
        load_dataset(saved(tmp_path, damaged))
    with pytest.raises(UserError, match=r"row 0 \(from 0\) is not an image that can be read"):
        load_dataset(saved(tmp_path / "b", damaged.select([0, *range(5, N)])))


def test_a_damaged_folder_and_a_name_that_cannot_be_reached_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, IMAGES)
    for file in Path(path).glob("*.arrow"):
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"cannot load {path}: .*: save the data set again"):
        load_dataset(path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"cannot load hf:nobody/nothing: .*: check the name and the connection"
    ) as caught:
        load_dataset("hf:nobody/nothing")
    assert "\n" not in str(caught.value)


def test_parquet_files_of_such_a_data_set_are_the_same_data(tmp_path: Path) -> None:
    IMAGES.to_parquet(tmp_path / "m.parquet")
    d = load_dataset(Source(str(tmp_path / "m.parquet"), image_size=8))
    assert d.sha256 == load_dataset(Source(saved(tmp_path, IMAGES), image_size=8)).sha256
    assert d.label_names == tuple(NAMES)


def test_a_test_split_with_other_numbers_of_the_classes_is_refused(tmp_path: Path) -> None:
    splits = halves("train", "test")
    splits["test"] = splits["test"].cast_column("label", ClassLabel(names=NAMES[::-1]))
    with pytest.raises(UserError, match=r"split test: the labels 0, 1, ... are named yak, ant, zebra, but .* zebra"):
        load_dataset(saved(tmp_path, splits))
