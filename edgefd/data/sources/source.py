"""The settings of a source of data, and the samples that it gives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy.typing as npt

from edgefd.core.errors import UserError

IMAGE_KEYS = ("image_size", "channels", "channels_last")
"""settings of sources whose samples can be images in arrays"""
TEST_FRACTION = 0.2
"""fraction of the samples that become test samples if the source has none of its own"""


@dataclass(frozen=True)
class Source:
    """Place of samples, and how they are read from there."""

    name: str = "mnist_mini"
    """data set: mnist_mini, mnist, fashion_mnist, cifar10, digits or watch; or the path of an .npz, .parquet or .csv
    file, of a folder with images in train/LABEL and test/LABEL, or in LABEL, or of a folder that save_to_disk of the
    package datasets wrote; or hf:NAME, a data set of the Hugging Face hub, or hf:NAME:SUBSET"""
    label: str | None = None
    """column of the labels, for tables and Hugging Face data sets (None = found by its type, or by its name: label,
    labels, class, target or y)"""
    features: tuple[str, ...] = ()
    """columns of the samples, by name or pattern such as acc_*, in this order, for tables and Hugging Face data sets
    (none = found: the images, or all columns of numbers besides `label` and `client`)"""
    client: str | None = None
    """column that names the client of each sample, for tables and Hugging Face data sets; the partition by_group then
    gives each client its own samples (None = the samples have no clients yet)"""
    train: str | None = None
    """split of a Hugging Face data set to train on (None = train)"""
    test: str | None = None
    """test samples: a file or folder of the same kind, or a split of a Hugging Face data set (None = those that the
    source has, or else a part of its samples, see `test_fraction`)"""
    test_fraction: float | None = None
    """fraction of the samples that becomes the test set, for a source without one, in (0, 1): of each class; with
    groups or `client`, all samples of a fraction of the clients; the same samples for every seed (None = 0.2)"""
    test_people: tuple[int, ...] | None = None
    """numbers of the people who form the test set, ascending; all others train; for watch only (None = 8 and 9)"""
    image_size: int | tuple[int, int] | None = None
    """size to which images are resized: one number, or height and width (None = as they are)"""
    channels: Literal[1, 3] | None = None
    """channels to which images are converted: 1 = grey, 3 = colour (None = as they are)"""
    channels_last: bool | Literal["auto"] = "auto"
    """whether the last axis of arrays holds the channels: true or false, or auto = found from their sizes"""

    def __post_init__(self) -> None:
        people, fraction = self.test_people, self.test_fraction
        if people is not None and (not people or list(people) != sorted(set(people))):
            raise ValueError(f"test_people must be people in ascending order, each once, not {list(people)}")
        if fraction is not None and not 0 < fraction < 1:
            raise ValueError(f"test_fraction must be in (0, 1), not {fraction}")
        if self.size is not None and not all(1 <= side <= 4096 for side in self.size):
            raise ValueError(f"image_size must be from 1 to 4096, not {self.image_size}")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to which images are resized; None = as they are."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def check_used(self, used: Collection[str], what: str) -> None:
        """Check that no setting is set that this kind of source does not read.

        Args:
            used: the settings that it reads.
            what: the kind of source, for the error.

        Raises:
            UserError: for the first other setting that is set.
        """
        for field in fields(Source):
            if field.name not in ("name", *used) and getattr(self, field.name) != field.default:
                others = f"it takes {', '.join(used)}" if used else "it takes no other keys"
                raise UserError(f"data.{field.name} is not for {what} such as {self.name}: remove it; {others}")


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples as a source holds them; `edgefd.data.datasets.dataset_of` numbers their labels and orders their axes."""

    x_train: npt.NDArray[Any]
    """training samples, or all samples if there are no test samples: numbers [n, ...]"""
    y_train: npt.NDArray[Any]
    """their labels [n]: numbers or text"""
    x_test: npt.NDArray[Any] | None = None
    """test samples [m, ...]; None = the source has none"""
    y_test: npt.NDArray[Any] | None = None
    """their labels [m]"""
    group_train: npt.NDArray[Any] | None = None
    """group, such as a person or a client, of each training sample [n]; None = the samples have no groups"""
    label_names: tuple[str, ...] | None = None
    """names of the labels 0, 1, ...; None = the labels are their own names"""
    columns: tuple[str, ...] | None = None
    """columns of a table that the samples consist of, in this order; None = the source is no table"""
