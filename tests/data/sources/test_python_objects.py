"""Arrays, datasets of torch and data sets of the package datasets, from a Python session."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from edgefd.core.errors import UserError
from edgefd.data.datasets import Dataset, Source, dataset_of, load_dataset
from edgefd.data.sources.python_objects import read_object

RNG = np.random.default_rng(0)
X = RNG.integers(0, 255, (30, 8, 9, 3), np.uint8)
Y = np.array(["a", "b", "c"])[np.arange(30) % 3]


def read(data: object, **settings: Any) -> Dataset:
    source = Source("object", **settings)
    return dataset_of("d", read_object(data, source), "data", source)


def test_arrays_with_any_labels_and_any_axes_are_read() -> None:
    d = read((X[:20], Y[:20], X[20:], Y[20:]))
    assert (d.x_train.shape, d.label_names) == ((20, 3, 8, 9), ("a", "b", "c"))
    whole = read({"x": X, "y": Y, "group": np.arange(30) // 5}, test_fraction=0.5)
    assert (len(whole.x_train), len(whole.x_test)) == (15, 15)
    same = read({"x_train": X[:20], "y_train": Y[:20], "x_test": X[20:], "y_test": Y[20:]})
    assert same.sha256 == d.sha256


def test_datasets_of_torch_are_the_same_data_as_their_arrays() -> None:
    x, y = torch.from_numpy(X), torch.arange(30) % 3 + 1
    d = read((TensorDataset(x[:20], y[:20]), TensorDataset(x[20:], y[20:])))
    assert d.sha256 == read((X[:20], np.arange(20) % 3, X[20:], np.arange(20, 30) % 3)).sha256
    assert d.label_names == ("1", "2", "3")
    assert len(read(TensorDataset(x, y)).x_test) == 6


class Pictures(torch.utils.data.Dataset[Any]):
    """A dataset like those of torchvision."""

    classes = ("zebra", "ant", "yak")

    def __init__(self, grow: int = 0) -> None:
        self.grow = grow

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return Image.fromarray(X[i, : 5 + self.grow * (i % 2)]), i % 3


def test_pictures_keep_the_names_of_their_classes_and_are_resized() -> None:
    d = read((Pictures(), Pictures()))
    assert (d.x_train.shape, d.label_names) == ((12, 3, 5, 9), Pictures.classes)
    with pytest.raises(UserError, match=r"samples of shapes \[5, 9, 3\] and \[6, 9, 3\]: set data\.image_size"):
        read(Pictures(1))
    assert read(Pictures(1), image_size=4).x_train.shape == (9, 3, 4, 4)


def test_data_sets_of_the_package_datasets_are_read() -> None:
    table = datasets.Dataset.from_dict({"a": np.arange(30.0), "b": np.ones(30), "kind": Y.tolist()})
    assert read(table, label="kind").x_train.shape == (24, 2)
    both = datasets.DatasetDict({"train": table, "test": table})
    assert len(read(both, label="kind").x_test) == 30
    with pytest.raises(UserError, match="split test holds no samples"):
        read(datasets.DatasetDict({"train": table, "test": table.select([])}), label="kind")


class Broken(Pictures):
    def __getitem__(self, i: int) -> tuple[Any, int]:
        raise OSError("no such picture")


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (3, {}, "data must be a name, a path"),
        ((X, Y, X), {}, "data must be a name, a path"),
        (X, {}, "data must be a name, a path"),
        ({"x": X}, {}, "data lacks y: it must hold"),
        ({"x": X, "y": Y[:9]}, {}, "30 samples need 30 labels"),
        (TensorDataset(torch.zeros(0, 2), torch.zeros(0)), {}, "the training set is empty"),
        (TensorDataset(torch.zeros(4, 2)), {}, "item 0 of the training set is not a pair (sample, label)"),
        (Broken(), {}, "item 0 of the training set is not a pair (sample, label) of numbers: OSError: no such picture"),
        ((X, Y, X, Y), {"label": "kind"}, "data.label is not for objects"),
        ((X, Y, X, Y), {"test_fraction": 0.5}, "has a test set of its own: remove data.test_fraction"),
        ((X.astype(np.int64), Y, X, Y), {}, "samples must be uint8 or floating point"),
    ],
)
def test_bad_objects_are_one_line(data: object, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(data, **settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_npz_files_hold_a_test_set_or_give_one(tmp_path: Path) -> None:
    path = str(tmp_path / "d.npz")
    np.savez(path, x=X, y=Y)
    np.savez(tmp_path / "t.npz", x=X[:9], y=Y[:9])
    assert load_dataset(path).sha256 == read({"x": X, "y": Y}).sha256
    assert len(load_dataset(Source(path, test=str(tmp_path / "t.npz"))).x_test) == 9
    np.savez(path, x=X, y=np.arange(30) % 3, label_names=np.array(["zebra", "ant", "yak"]))
    assert load_dataset(path).label_names == ("zebra", "ant", "yak")
    for other, words in (
        ({"label_names": np.array(["a", "a", "b"])}, "label_names must be an array of different texts"),
        ({"x_test": X}, "lacks y_test"),
    ):
        np.savez(path, x=X, y=np.arange(30) % 3, **other)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=words):
            load_dataset(path)
    np.savez(path, x_train=X, y_train=Y, x_test=X, y_test=Y)
    for settings, words in (
        ({"test": "t.npz"}, r"has x_test of its own: remove data\.test"),
        ({"test_fraction": 0.1}, r"has a test set of its own: remove data\.test_fraction"),
        ({"client": "c"}, r"data\.client is not for npz files"),
    ):
        with pytest.raises(UserError, match=words):
            load_dataset(Source(path, **settings))  # type: ignore[arg-type]


class Endless:
    """A dataset whose length cannot be known."""

    def __len__(self) -> int:
        raise TypeError("no end")

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return np.ones(2), i % 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": [[1, 2], [3]], "y": [0, 1]}, "x is no array: ValueError"),
        ({"x": torch.ones(4, 2, requires_grad=True), "y": [0, 1, 0, 1]}, "x is no array: RuntimeError"),
        (([[1], [1, 2]], Y[:2], X, Y), "x_train is no array"),
        ({"x": None, "y": None}, r"x must be rows of samples \[n, ...\], not one number or object"),
        ({"x": X, "y": Y, "group": 3}, r"30 samples need 30 groups, not an array of shape \[\]"),
        ({"x": X, "y": Y, "group": np.zeros((30, 2))}, r"30 samples need 30 groups, not an array of shape \[30, 2\]"),
        ({"x": X, "y": Y, "group": np.full(30, np.nan)}, r"the group of sample 0 \(from 0\) is nan"),
        ({"x": X, "y": Y, "group": np.zeros(30, complex)}, "groups must be numbers or text, not complex128"),
        ({"x": X, "y": np.array(["a\ud800", "b", "c"])[np.arange(30) % 3]}, "the label of sample 0"),
        (Endless(), "the training set has no length: TypeError: no end"),
        (datasets.Dataset.from_dict({"label": [0, 1]}).to_iterable_dataset(), "has no length .*without streaming"),
    ],
)
def test_objects_that_are_no_samples_are_one_line(data: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_the_row_of_a_value_that_is_not_finite_is_that_of_the_source() -> None:
    x = np.ones((30, 4), np.float32)
    x[17, 2] = np.inf
    with pytest.raises(UserError, match=r"sample 17 \(from 0\) holds NaN or infinite values"):
        read({"x": x, "y": Y})
