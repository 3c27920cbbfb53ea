"""Tables of Apache Arrow, as parquet files and Hugging Face data sets hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.data.images import Encoded, Picture, decode_images
from edgefd.data.sources.source import Source
from edgefd.data.sources.table import Kind, missing_values


@dataclass(frozen=True, eq=False)
class ArrowTable:
    """A `pyarrow.Table`; its images are decoded in the size and colours of the source."""

    place: str
    """where the table is"""
    table: Any
    source: Source
    shape: tuple[int, ...] | None = None
    """shape of every image; None = that of the first"""

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        return list(self.table.column_names)

    def kind(self, name: str) -> Kind:
        """Return what a column holds."""
        import pyarrow.types as types

        kind = _plain_type(self.table.schema.field(name).type)
        if types.is_struct(kind):
            names = {kind.field(i).name for i in range(kind.num_fields)}
            return "image" if names == {"bytes", "path"} else "other"
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            return "text"
        if _is_number(kind):
            return "number"
        while _is_list(kind):
            kind = _plain_type(kind.value_type)
            if _is_number(kind):
                return "array"
        return "other"

    def values(self, name: str) -> npt.NDArray[Any]:
        """Return a column: numbers [n, ...], images uint8 [n, C, H, W], or text and None, object [n]."""
        column = self.table.column(name)
        kind = self.kind(name)
        if kind == "image":
            return self._images(name, column.to_pylist())
        if kind not in ("number", "array"):
            return np.array([*column.to_pylist(), None], object)[:-1]  # None: so that lists stay one value each
        return self._numbers(name, column.combine_chunks())

    def _images(self, name: str, values: Sequence[dict[str, Any] | None]) -> npt.NDArray[np.uint8]:
        pictures: list[Picture] = []
        for row, value in enumerate(values):
            data, path = (b"", "") if value is None else (value["bytes"], value["path"])
            if not data and not path:
                raise UserError(f"{self.place}: column {name!r} has no image in row {row} (from 0): remove the row")
            pictures.append(Encoded(f"{self.place}, {name}, row {row} (from 0)", data) if data else Path(path))
        return decode_images(pictures, self.shape, self.source.size, self.source.channels)

    def _numbers(self, name: str, array: Any) -> npt.NDArray[Any]:
        """Return numbers [n], or [n, ...] from lists of equal lengths."""
        import pyarrow as pa

        if isinstance(array, pa.ChunkedArray):  # of extension types, whose chunks are not combined
            array = pa.concat_arrays([chunk.storage for chunk in array.chunks])
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if array.null_count:
            raise missing_values(self.place, name, array.is_null().to_numpy(zero_copy_only=False))
        if not _is_list(array.type):
            if pa.types.is_decimal(array.type):
                array = array.cast(pa.float64())
            return np.asarray(array.to_numpy(zero_copy_only=False))
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        if len(set(lengths.tolist())) > 1:
            raise UserError(
                f"{self.place}: column {name!r} holds arrays of {lengths.min()} to {lengths.max()} values: all "
                "need the same number"
            )
        inner = self._numbers(name, array.flatten())
        return inner.reshape(len(array), -1, *inner.shape[1:])


def _plain_type(kind: Any) -> Any:
    """Return the type of the values of an extension or of a dictionary."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_number(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
