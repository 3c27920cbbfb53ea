"""Files of trained models in a run folder: RUN/models/round-0030/client-003.safetensors.

A file holds the parameters and buffers of a client's model under the names of the module's `state_dict`. Its metadata,
a JSON object under the key `edgefd`, says which model it is and how raw samples become its input (`ModelInfo`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from edgefd.core.errors import UserError
from edgefd.core.files import opened, put, writing
from edgefd.core.json_files import parse_json
from edgefd.data.model_input import InputFormat

MODELS = "models"
_KEY = "edgefd"
_ROUND = re.compile(r"round-(\d{4,9})")


@dataclass(frozen=True)
class ModelInfo:
    """Origin of a trained model, and the samples that it takes."""

    model: str
    """name of the model, or the path of its factory"""
    heads: int
    """number of output heads; with 2, the module has twice as many logits as there are classes"""
    input: InputFormat
    """format of raw samples, with the scale of the training and the number of classes"""
    channels_last: bool | Literal["auto"]
    """`data.channels_last` of the run"""
    image_size: tuple[int, int] | None
    """height and width to which the run has resized its images; None = it has not"""
    channels: Literal[1, 3] | None
    """`data.channels` of the run"""
    label_names: tuple[str, ...] | None
    """names of the classes; None if the data set has none"""
    extractor: str | None
    """frozen network whose features the model takes; None if it takes samples"""
    extractor_size: int | None
    """width and height in pixels of its input; None = its own"""
    extractor_sha256: str | None
    """SHA-256 of its graph"""
    method: str
    """method of the run"""
    dataset: str
    """name of the data set"""
    seed: int
    """seed of the run"""
    client: int
    """number of the client"""
    round: int
    """number of the round in which the model was evaluated; that of the closing round for a final model"""
    columns: tuple[str, ...] | None = None
    """columns of a table that a sample consists of, in this order; None if the data set was no table"""


def model_path(folder: Path, round: int, client: int) -> Path:
    """Return the path of the model of a client in a run folder, as it was evaluated in a round."""
    return folder / MODELS / f"round-{round:04d}" / f"client-{client:03d}.safetensors"


def kept_rounds(folder: Path) -> list[int]:
    """Return the rounds of which a run folder has models, ascending."""
    found = (_ROUND.fullmatch(path.name) for path in (folder / MODELS).glob("round-*"))
    return sorted(int(match[1]) for match in found if match)


def write_model(path: Path, weights: Mapping[str, np.ndarray], info: ModelInfo) -> None:
    """Write a model, completely or not at all.

    Args:
        path: the file.
        weights: parameters and buffers by name.
        info: its origin.

    Raises:
        RunError: if it cannot be written.
    """
    from safetensors.numpy import save

    with writing(path):
        put(path, save(dict(weights), {_KEY: json.dumps(asdict(info))}))


def read_model(path: Path) -> tuple[bytes, ModelInfo | None]:
    """Return the bytes of a safetensors file, and what edgefd wrote about it; None if another program wrote it.

    Raises:
        UserError: if there is no such file, or it is damaged.
    """
    try:
        with opened(path) as file:
            blob = file.read()
        size = int.from_bytes(blob[:8], "little")
        metadata = parse_json(blob[8 : 8 + size]).get("__metadata__", {})
        text = metadata.get(_KEY)
        return blob, None if text is None else TypeAdapter(ModelInfo).validate_python(parse_json(text))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path} does not say which model it is: {error.errors()[0]['msg']}") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error


def final_weights(folder: Path, round: int, n_clients: int) -> tuple[dict[str, np.ndarray], ...]:
    """Return the weights of all clients that a run folder keeps of a round; none if it keeps none.

    Raises:
        UserError: if a file is missing or damaged.
    """
    from safetensors.numpy import load

    paths = [model_path(folder, round, client) for client in range(n_clients)] if round in kept_rounds(folder) else []
    return tuple(load(read_model(path)[0]) for path in paths)
