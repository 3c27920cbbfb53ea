"""Weights from a safetensors file for a torch module: those of a kept model, and the first ones of `model.init`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edgefd.core.errors import UserError
from edgefd.federation.clients import Scale
from edgefd.runs.model_files import kept_rounds, model_path, read_model


def initial_path(init: str, client: int | None) -> Path:
    """Return the file of `model.init` for a client; in a run folder, it is the client's newest kept model.

    Raises:
        UserError: if a run folder keeps no model of the client, or it is named for a model that has no client.
    """
    path = Path(init)
    if not path.is_dir():
        return path
    if client is None:
        raise UserError(
            f"model.init={path} is a run folder with a model for each client, but this model is of no client: name one "
            "of its files, such as models/round-0030/client-003.safetensors"
        )
    if not (rounds := kept_rounds(path)):
        raise UserError(f"model.init={path} is a folder without models of a run: set run.keep in that run")
    chosen = model_path(path, rounds[-1], client)
    if not chosen.exists():
        n = len(list(chosen.parent.iterdir()))
        raise UserError(
            f"model.init={path} keeps models of {n} clients, and none of client {client}: name a file of it"
        )
    return chosen


def load_initial(model: nn.Module, init: str | None, client: int | None) -> None:
    """Load the weights of `model.init` into a module; without init, it stays as it is.

    Raises:
        UserError: if the weights are not those of such a module; the message names the parameter.
    """
    if init is None:
        return
    path = initial_path(init, client)
    load_weights(model, read_model(path)[0], f"model.init={path}")


def load_weights(model: nn.Module, blob: bytes, source: str, allow_missing: bool = False) -> None:
    """Load all tensors of a safetensors file into a module.

    Args:
        model: the module.
        blob: the bytes of the file.
        source: the beginning of errors.
        allow_missing: whether tensors that the file lacks keep their values.

    Raises:
        UserError: if a tensor of the module is missing, has another shape, or is not finite, or the file has others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(blob)
    except SafetensorError as error:
        raise UserError(f"{source} is not a whole safetensors file: {error}") from error
    state = model.state_dict()
    if missing := [] if allow_missing else [name for name in state if name not in tensors]:
        raise UserError(f"{source} has no {missing[0]}, which the model has: use weights of the same model")
    if others := [name for name in tensors if name not in state]:
        raise UserError(f"{source} has {others[0]}, which the model does not have: use weights of the same model")
    for name, tensor in tensors.items():
        _check_tensor(f"{source}: {name}", tensor, state[name])
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def _check_tensor(what: str, tensor: Tensor, place: Tensor) -> None:
    if tensor.shape != place.shape:
        raise UserError(f"{what} has the shape {list(tensor.shape)}, but the model needs {list(place.shape)}")
    if tensor.is_floating_point() != place.is_floating_point():
        raise UserError(f"{what} is {tensor.dtype}, but the model needs {place.dtype}".replace("torch.", ""))
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise UserError(f"{what} holds NaN or infinite values")


def scale_warning(init: str, client: int, scale: Scale) -> str | None:
    """Return a sentence if a model of `model.init` was trained on samples of another scale; None if not."""
    path = initial_path(init, client)
    info = read_model(path)[1]
    if info is None or info.input.scale == (tuple(scale.mean), tuple(scale.std)):
        return None
    return (
        f"model.init={path} was trained on samples scaled by (mean, deviation) {info.input.scale}, but this run scales "
        f"by {(scale.mean, scale.std)}: its first predictions can be worse; data.scale=unit makes both the same"
    )
