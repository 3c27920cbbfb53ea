"""Labels: any numbers or text become the classes 0 to C - 1, and the names of the classes are kept.

Simulations number the labels of a data set. Devices map their labels by the names in the manifest of their bundle.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError

Names = tuple[str, ...] | None
"""name of each class: its label in the source; None = the labels are 0, 1, ... themselves"""

LABEL_NAMES = ("label", "labels", "class", "target", "y")
"""names of the column of labels in a table; the first of them that occurs counts, unless a setting names the column"""
_WHOLE = re.compile(r"[+-]?\d{1,18}")
_LISTED = 8


def number_labels(
    y_train: npt.NDArray[Any], y_test: npt.NDArray[Any], names: Names, source: str
) -> tuple[Int64, Int64, Names]:
    """Return training and test labels as classes 0 to C - 1, and the names of the classes.

    Classes are in the order of `names`, of numbers, or of the alphabet. Only labels of training samples are classes.
    Labels that are 0, 1, ... already stay as they are, and have no names.

    Args:
        y_train: labels [n], numbers or text.
        y_test: labels [m] of the same kind.
        names: names of the labels 0, 1, ...; None = the labels are their own names.
        source: beginning of errors.

    Raises:
        UserError: if there are fewer than two classes, or so many that the labels are measurements or ids, or a test
            label is not a training label.
    """
    train, test = plain_labels(y_train, len(y_train), source), plain_labels(y_test, len(y_test), source)
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        train, test = train.astype(str), test.astype(str)
    values = np.unique(train)
    if names is not None and (values.dtype.kind != "i" or values[0] < 0 or values[-1] >= len(names)):
        raise UserError(f"{source}: labels must be from 0 to {len(names) - 1}, the numbers of the names of labels")
    texts = [name_of(value) if names is None else names[value] for value in values.tolist()]
    check_count(texts, len(train), source)
    if len(unknown := np.setdiff1d(test, values)):
        name = name_of(unknown[0]) if names is None or not 0 <= unknown[0] < len(names) else names[unknown[0]]
        raise UserError(
            f"{source}: the test label {name} is not among the training labels, which have {_count(texts)}: remove "
            "these test samples, or add training samples"
        )
    y_train, y_test = (np.searchsorted(values, part).astype(np.int64) for part in (train, test))
    return y_train, y_test, None if _are_classes(texts) else tuple(texts)


def check_count(names: Sequence[str], n: int, source: str) -> None:
    """Check that `n` labels with these different values are labels of classes.

    Raises:
        UserError: if there are fewer than two classes, or so many that the labels are measurements or ids.
    """
    if not 2 <= len(names) <= (n if _are_classes(names) else max(n // 2, 2)):
        reason = "two or more classes are needed" if len(names) < 2 else "these are ids or measurements, not classes"
        raise UserError(f"{source}: the {n} training labels have {_count(names)}: {reason}")


def _are_classes(names: Sequence[str]) -> bool:
    return list(names) == [str(c) for c in range(len(names))]


def classes_of(y: npt.NDArray[Any], n: int, n_classes: int, names: Names, source: str) -> Int64:
    """Return labels as the classes of a federation, int64 [n].

    Text, and numbers if all names are numbers, must be the names of classes. Other numbers are the classes themselves.

    Args:
        y: labels [n].
        n: number of samples.
        n_classes: number of classes C.
        names: names of the classes; None = 0, 1, ...
        source: beginning of errors.

    Raises:
        UserError: if a label is not one of the federation, or there are not `n` labels.
    """
    labels = plain_labels(y, n, source)
    table = {str(c): c for c in range(n_classes)}
    if names is not None:
        own = {name: c for c, name in enumerate(names)}
        table = own if labels.dtype.kind != "U" and all(map(is_number, names)) else {**table, **own}
    values, inverse = np.unique(labels, return_inverse=True)
    texts = [name_of(value) for value in values.tolist()]
    for text in texts:
        if text not in table:
            row = int(np.argmax(inverse == texts.index(text)))
            known = f"0 to {n_classes - 1}" if names is None else shown_names(names)
            raise UserError(
                f"{source}: labels must be those of the federation, {known}, but sample {row} (from 0) has {text}: use "
                "the labels of the data that the federation was made from"
            )
    return np.array([table[text] for text in texts], np.int64)[inverse]


def labels_of(classes: Int64, names: Names) -> npt.NDArray[Any]:
    """Return the labels that the source of the classes has: whole numbers, other numbers or text; see `classes_of`."""
    if names is None:
        return classes
    if all(_WHOLE.fullmatch(name) for name in names):
        return np.array([int(name) for name in names])[classes]
    return np.array([float(name) for name in names] if all(map(is_number, names)) else names)[classes]


def plain_labels(y: npt.NDArray[Any], n: int, source: str) -> npt.NDArray[Any]:
    """Return labels as int64, float64 or text [n]; a column [n, 1], True and False and text of whole numbers fit too.

    Raises:
        UserError: if there are not `n` labels, or one is missing.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and len(y) == n and y.size:
        raise UserError(
            f"{source}: {n} samples need {n} labels, not an array of shape {list(y.shape)}: if each row has a single 1 "
            "at the place of its label, give y.argmax(1)"
        )
    if y.shape != (n,):
        raise UserError(f"{source}: {n} samples need {n} labels, not an array of shape {list(y.shape)}")
    if y.dtype.kind in "OSU":
        return _text(y, source)
    if y.dtype.kind not in "biuf":
        raise UserError(f"{source}: labels must be numbers or text, not {y.dtype}")
    return _numbers(y, source)


def _numbers(y: npt.NDArray[Any], source: str) -> npt.NDArray[Any]:
    with np.errstate(invalid="ignore"):  # NaN, infinite and too large values differ from their integer
        whole = y.astype(np.int64)
    wrong = ~np.isfinite(y) | ((whole < 0) & (y > 0)) | (np.abs(y.astype(np.float64)) >= 2**53)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{source}: the label of sample {row} (from 0) is {y[row]}, which names no class")
    return whole if (whole == y).all() else y.astype(np.float32).astype(np.float64)  # one name in all float types


def _text(y: npt.NDArray[Any], source: str) -> npt.NDArray[Any]:
    values = [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in y.tolist()]
    for row, value in enumerate(values):
        if not is_text(value):
            raise UserError(f"{source}: the label of sample {row} (from 0) is {value!r:.40}, not a text")
    text = np.array([value.strip() for value in values], str)
    return text.astype(np.int64) if all(map(_WHOLE.fullmatch, text.tolist())) else text


def is_text(value: object) -> bool:
    r"""Return whether a label is text that files can hold: not empty, without NUL characters and parts of characters.

    >>> is_text("cats"), is_text(" "), is_text("cats\0"), is_text("\ud800")
    (True, False, False, False)
    """
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\0\ud800-\udfff]", value)


def name_of(value: object) -> str:
    """Return the name of a label: text, or a number in its shortest form.

    >>> name_of(3), name_of(0.5), name_of("cats")
    ('3', '0.5', 'cats')
    """
    return str(np.float32(value)).removesuffix(".0") if isinstance(value, float) else str(value)


def shown_names(names: Sequence[str]) -> str:
    """Return some names of classes in one line.

    >>> shown_names(["cats", "dogs"])
    'cats, dogs'
    """
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _count(texts: Sequence[str]) -> str:
    return f"{len(texts)} value{'s' if len(texts) > 1 else ''} ({shown_names(texts)})"


def is_number(text: str) -> bool:
    """Return whether a text is a finite number; the underscores of Python's numbers are not accepted."""
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False
