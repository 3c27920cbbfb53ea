"""Samples in folders of images, whose names are labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgefd.core.errors import UserError
from edgefd.data.images import decode_images, labelled_files
from edgefd.data.sources.source import Samples, Source

KEYS = ("test", "test_fraction", "image_size", "channels")


def read_image_folder(source: Source) -> Samples:
    """Read the images in train/LABEL and test/LABEL, or in LABEL, of a folder.

    Test samples are the images in test/LABEL, or in LABEL of the folder `source.test`.

    Raises:
        UserError: if the folder has another form, or an image cannot be used, see `decode_images`.
    """
    folder = Path(source.name)
    if folder.is_file():
        advice = "unpack it" if folder.suffix in (".gz", ".bz2", ".xz", ".zip") else "convert it"
        raise UserError(f"{folder} is a file of an unknown kind, not .npz, .parquet, .csv or .tsv: {advice}")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}, and no file of a known kind: .npz, .parquet, .csv or .tsv")
    source.check_used(KEYS, "folders of images")
    test = None if source.test is None else Path(source.test)
    if (folder / "train").is_dir():
        own = folder / "test"
        if own.is_dir() == (test is not None):
            if test is not None:
                raise UserError(f"{folder} has a folder test of its own: remove data.test={test}")
            raise UserError(
                f"{folder} holds a folder train, but no folder test: name a folder in data.test, or set "
                f"data.name={folder / 'train'} to take a part of it as test set"
            )
        folder, test = folder / "train", test or own
    train = list(labelled_files(folder, None))
    others = [] if test is None else list(labelled_files(test, None))
    for where, files in ((folder, train), *([] if test is None else [(test, others)])):
        if not files:
            raise UserError(f"{where} must hold a folder of images for each label, such as {where / 'cats'}")
    x = decode_images([file for file, _ in (*train, *others)], None, source.size, source.channels)
    y = np.array([label for _, label in (*train, *others)])
    n = len(train)
    return Samples(x[:n], y[:n]) if test is None else Samples(x[:n], y[:n], x[n:], y[n:])
