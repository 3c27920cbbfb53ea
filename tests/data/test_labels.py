"""Labels of any kind become classes 0 to C - 1; devices map theirs by the names of the classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.errors import UserError
from edgefd.data.labels import classes_of, labels_of, number_labels


@pytest.mark.parametrize(
    ("y", "classes", "names"),
    [
        (np.arange(6) % 3, [0, 1, 2, 0, 1, 2], None),
        (np.array([1, 2, 3, 1, 2, 3], np.uint8), [0, 1, 2, 0, 1, 2], ("1", "2", "3")),
        (np.array([10, 2, 10, 2]), [1, 0, 1, 0], ("2", "10")),
        (np.array([-1, 1, 1, -1]), [0, 1, 1, 0], ("-1", "1")),
        (np.array([0.5, 1.5, 0.5, 1.5], np.float32), [0, 1, 0, 1], ("0.5", "1.5")),
        (np.array([0.1, 1, 0.1, 1]), [0, 1, 0, 1], ("0.1", "1")),
        (np.array([2.0, 1.0, 2.0, 1.0]), [1, 0, 1, 0], ("1", "2")),
        (np.array(["b", "a", "b", "a"]), [1, 0, 1, 0], ("a", "b")),
        (np.array([b"b", b"a", b"b", b"a"]), [1, 0, 1, 0], ("a", "b")),
        (np.array(["b ", "a", "b", "a"], object), [1, 0, 1, 0], ("a", "b")),
        (np.array(["10", "9", "10", "9"]), [1, 0, 1, 0], ("9", "10")),
        (np.array(["1", "0", "1", "0"]), [1, 0, 1, 0], None),
        (np.array([True, False, True]), [1, 0, 1], None),
        (np.array([[3], [4], [3], [4]]), [0, 1, 0, 1], ("3", "4")),
    ],
)
def test_labels_are_numbered_in_order_and_named(y: np.ndarray, classes: list[int], names: tuple[str, ...]) -> None:
    train, test, found = number_labels(y, y[:1], None, "d")
    assert (train.tolist(), test.tolist(), found) == (classes, classes[:1], names)
    assert train.dtype == test.dtype == np.int64


def test_given_names_keep_their_order_and_names_without_samples_are_left_out() -> None:
    y = np.array([2, 0, 2, 0])
    assert number_labels(y, y[:2], ("zebra", "yak", "ant"), "d")[1:] == (pytest.approx([1, 0]), ("zebra", "ant"))
    with pytest.raises(UserError, match="labels must be from 0 to 1, the numbers of the names"):
        number_labels(y, y, ("zebra", "yak"), "d")
    with pytest.raises(UserError, match="the test label yak is not among the training labels"):
        number_labels(y, np.array([1]), ("zebra", "yak", "ant"), "d")


@given(
    st.one_of(
        st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=9, unique=True),
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=9, unique=True),
        st.lists(st.text("abcxyz 01", min_size=1).map(str.strip).filter(len), min_size=2, max_size=9, unique=True),
    )
)
def test_a_device_with_the_labels_of_the_source_has_the_classes_of_the_simulation(values: list[object]) -> None:
    """Whatever the labels are: labels_of inverts the numbering, and classes_of reads the source's own labels."""
    y = np.array([*values, *values, *values])
    if len(np.unique(y)) < len(values):  # 0.0 and -0.0
        return
    try:
        classes, _, names = number_labels(y, y, None, "d")
    except UserError:  # texts such as 01 and 1 are one number
        return
    n_classes = int(classes.max()) + 1
    assert classes_of(y, len(y), n_classes, names, "device").tolist() == classes.tolist()
    written = labels_of(classes, names)
    assert classes_of(written, len(y), n_classes, names, "device").tolist() == classes.tolist()


@pytest.mark.parametrize(
    ("y", "names", "classes"),
    [
        (["dogs", "cats"], ("cats", "dogs"), [1, 0]),
        ([1, 0], ("cats", "dogs"), [1, 0]),
        (["1", "0"], ("cats", "dogs"), [1, 0]),
        ([1, 2], ("1", "2"), [0, 1]),
        (["1", "2"], ("1", "2"), [0, 1]),
        ([1.0, 2.0], ("1", "2"), [0, 1]),
        ([0, 1], None, [0, 1]),
        ([1.0, 1.0], ("0.5", "1"), [1, 1]),
        ([0.5, 1.0], ("0.5", "1"), [0, 1]),
    ],
)
def test_labels_of_a_device_are_names_or_classes(y: list[object], names: tuple[str, ...], classes: list[int]) -> None:
    assert classes_of(np.array(y), 2, 2, names, "d").tolist() == classes


@pytest.mark.parametrize(
    ("y", "names", "message"),
    [
        (["emu", "cats"], ("cats", "dogs"), r"federation, cats, dogs, but sample 0 \(from 0\) has emu"),
        ([0, 2], ("cats", "dogs"), r"sample 1 \(from 0\) has 2"),
        ([0, 1], ("1", "2"), r"federation, 1, 2, but sample 0 \(from 0\) has 0"),
        (["cats", "dogs"], None, r"federation, 0 to 1, but sample 0 \(from 0\) has cats"),
        ([0, -1], None, r"sample 1 \(from 0\) has -1"),
        ([0, 0.5], None, r"sample 1 \(from 0\) has 0\.5"),
        (["cats", ""], ("cats", "dogs"), r"sample 1 \(from 0\) is '', not a text"),
    ],
)
def test_unknown_labels_of_a_device_are_refused(y: list[object], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classes_of(np.array(y), 2, 2, names, "d")


def test_measurements_and_ids_are_not_classes() -> None:
    for y in (np.linspace(0, 1, 30), np.arange(30) + 1, np.array([f"id{i}" for i in range(30)])):
        with pytest.raises(UserError, match=r"30 values .* ids or measurements"):
            number_labels(y, y, None, "d")


def test_names_with_underscores_are_text_and_no_numbers() -> None:
    names = ("1_0", "2_0")
    assert labels_of(np.array([1, 0]), names).tolist() == ["2_0", "1_0"]
    assert classes_of(np.array(["2_0", "1_0"]), 2, 2, names, "x").tolist() == [1, 0]
