"""Data sets of the Hugging Face package datasets: of the hub, or in a folder that `save_to_disk` wrote."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgefd.core.errors import UserError, hint, require
from edgefd.core.objects import one_line
from edgefd.data.labels import shown_names
from edgefd.data.sources.arrow_table import ArrowTable
from edgefd.data.sources.source import IMAGE_KEYS, Samples, Source
from edgefd.data.sources.table import KEYS as TABLE_KEYS
from edgefd.data.sources.table import check_same_names, columns_of, samples_of_tables

PREFIX = "hf:"
KEYS = ("train", *TABLE_KEYS, *IMAGE_KEYS)


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder is one that `save_to_disk` wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_hugging_face(source: Source) -> Samples:
    """Read a data set of the hub (hf:NAME or hf:NAME:SUBSET), or the folder of a saved one.

    Raises:
        UserError: if the package datasets is not installed, the data set cannot be loaded, or its splits or columns
            cannot be used.
    """
    require("hf", "datasets")
    import datasets

    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)  # each attempt to reach the hub would write two lines
    try:
        if source.name.startswith(PREFIX):
            name, _, subset = source.name.removeprefix(PREFIX).partition(":")
            loaded = datasets.load_dataset(name, subset or None)
        else:
            loaded = datasets.load_from_disk(source.name)
    except Exception as error:  # the package raises many kinds of errors, and those of its filesystems
        advice = "check the name and the connection" if source.name.startswith(PREFIX) else "save the data set again"
        raise UserError(f"cannot load {source.name}: {one_line(error):.200}: {advice}") from error
    finally:
        logger.setLevel(before)
    return samples_of_splits(loaded if isinstance(loaded, dict) else {"train": loaded}, source)


def samples_of_splits(splits: Mapping[str, Any], source: Source) -> Samples:
    """Return the samples of splits of the package datasets.

    Raises:
        UserError: if the splits or columns cannot be found, or a value is missing or not usable.
    """
    source.check_used(KEYS, "Hugging Face data sets")
    train_split, test_split = _splits(splits, source)
    dataset = splits[train_split]
    train = _table(dataset, train_split, source)
    classes = [name for name, feature in dataset.features.items() if type(feature).__name__ == "ClassLabel"]
    columns = columns_of(train, source, classes[0] if len(classes) == 1 else None)
    test = None if test_split is None else _table(splits[test_split], test_split, source)
    samples = samples_of_tables(train, test, columns)
    names = getattr(dataset.features[columns.label], "names", None)
    if test_split is not None:
        other = getattr(splits[test_split].features[columns.label], "names", None)
        check_same_names(names, other, f"{source.name}, split {test_split}")
    for split, y in ((train_split, samples.y_train), (test_split, samples.y_test)):
        if names and y is not None and len(y) and y.min() < 0:
            raise UserError(f"{source.name}: split {split} holds samples without labels (-1): choose another split")
    return replace(samples, label_names=tuple(names) if names else None)


def _splits(splits: Mapping[str, Any], source: Source) -> tuple[str, str | None]:
    """Return the names of the training split and of the test split; None = a part of the training split."""
    names = list(splits)
    for key, wanted in (("train", source.train), ("test", source.test)):
        if wanted is not None and wanted not in names:
            raise UserError(f"{source.name} has no split {wanted!r} (data.{key}): {hint(wanted, names)}")
    train = source.train or ("train" if "train" in names else names[0] if len(names) == 1 else None)
    if train is None:
        raise UserError(f"{source.name} has the splits {shown_names(names)}: set data.train to one of them")
    others = [name for name in names if name != train]
    if source.test is not None or source.test_fraction is not None or not others:
        if source.test == train:
            raise UserError(f"{source.name}: data.test and data.train are the same split, {train}: choose another")
        return train, source.test
    if "test" not in others:
        raise UserError(
            f"{source.name} has no split test, but {shown_names(others)}: set data.test to one of them, or "
            "data.test_fraction to take a part of the training split"
        )
    return train, "test"


def _table(dataset: Any, split: str, source: Source) -> ArrowTable:
    place = f"{source.name}, split {split}"
    if not hasattr(dataset, "__len__"):
        raise UserError(f"{place} has no length ({type(dataset).__name__}): load it without streaming")
    if not len(dataset):
        raise UserError(f"{place} holds no samples: choose another split")
    return ArrowTable(place, dataset.with_format("arrow")[:], source)
