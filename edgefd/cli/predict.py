"""The command that classifies samples with a model of a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy.typing as npt
import typer

from edgefd.cli.common import require_simulation
from edgefd.core.errors import UserError
from edgefd.core.files import put, writing
from edgefd.core.text import shown
from edgefd.data.csv_table import ENDINGS, read_samples
from edgefd.data.images import read_unlabelled_images
from edgefd.data.npz import read_npy, read_npz
from edgefd.data.sources.csv_file import read_csv_table
from edgefd.data.sources.parquet_file import read_parquet_table
from edgefd.data.sources.source import Source
from edgefd.data.sources.table import samples_in_columns
from edgefd.runs.model_files import ModelInfo

Samples = tuple[npt.NDArray[Any], list[str]]
"""raw samples [n, ...], and what each is called: its number from 0, or the path of its image"""


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder; of a baseline, RUN/also/METHOD")],
    client: Annotated[
        int, typer.Option("--client", min=0, metavar="N", help="number of the client, from 0, as check lists them")
    ],
    input: Annotated[
        Path,
        typer.Option(
            "--input", metavar="PATH", help="raw samples: .parquet, .csv, .npy, .npz with x, or a folder of images"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="Y.csv", help="also write labels and probabilities to this file")
    ] = None,
    round: Annotated[
        int | None, typer.Option("--round", metavar="N", help="round of the model (default: the newest that is kept)")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", metavar="MODEL.onnx", help="also write the model as one ONNX graph")
    ] = None,
) -> None:
    """Classify raw samples with the trained model of a client, and print one label for each.

    Example: edgefd predict runs/first --client 3 --input x.npy --out y.csv
    """
    require_simulation()
    from edgefd.learners.batches import softmax
    from edgefd.runs.trained_model import load_trained

    if out is not None and out.suffix.lower() != ".csv":
        raise UserError(f"--out must be a .csv file, not {out}")
    for written in (out, onnx):
        if written is not None and written.resolve() == input.resolve():
            raise UserError(f"{written} is the input, which would be lost: name another file")
    model = load_trained(run, client, round)
    x, names = _read(input, model.info)
    probabilities = softmax(model.logits(x, str(input)))
    labels = model.labels(probabilities)
    if onnx is not None:
        model.to_onnx(onnx)
    if out is not None:
        classes = model.info.label_names or range(probabilities.shape[1])
        rows = [["sample", "label", *(f"p({c})" for c in classes)]]
        rows += [[n, str(y), *map(str, p)] for n, y, p in zip(names, labels, probabilities.tolist(), strict=True)]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        with writing(out):
            put(out, text.getvalue().encode())
    print("\n".join(shown(label) for label in labels))


def _read(path: Path, info: ModelInfo) -> Samples:
    """Return the samples of a file or a folder.

    Raises:
        UserError: if it cannot be read.
    """
    shape, kind = info.input.sample_shape, path.suffix.lower()
    if path.is_dir():
        x, files = read_unlabelled_images(path, shape, info.image_size, info.channels)
        return x, [str(file.relative_to(path)) for file in files]
    if info.columns is not None and kind in (".csv", ".tsv", ".parquet"):
        array = _read_columns(path, info.columns, Source(image_size=info.image_size, channels=info.channels))
    elif kind == ".parquet":
        raise UserError(
            f"{path}: the data set of the run was no table, so its columns have no names: give an .npy file"
        )
    elif kind in ENDINGS:
        array = read_samples(path, math.prod(shape)).reshape(-1, *shape)
    elif kind == ".npz":
        array = read_npz(path, ("x",))["x"]
    elif kind == ".npy":
        array = read_npy(path)
    else:
        raise UserError(f"{path} must be a .parquet, .csv (.tsv, .txt), .npy or .npz file, or a folder of images")
    if not array.ndim:
        raise UserError(f"{path}: expected an array [n, ...] of samples, not one number")
    return array, [str(i) for i in range(len(array))]


def _read_columns(path: Path, columns: Sequence[str], images: Source) -> npt.NDArray[Any]:
    """Return the samples in the columns of a table that the run has learned from; other columns are passed over."""
    is_parquet = path.suffix.lower() == ".parquet"
    return samples_in_columns(read_parquet_table(path, images) if is_parquet else read_csv_table(path), columns)
