"""Checks of a user's own module before a run: its logits, its training, and that its state is where edgefd sees it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from edgefd.core.errors import UserError
from edgefd.core.objects import one_line
from edgefd.learners.batches import Batch
from edgefd.learners.torch_learner import TorchLearner, one_thread, tensor_of

Shape = tuple[int, ...]
_FLOATS, _INTEGERS = (torch.float64, torch.float32, torch.float16), (torch.int64, torch.int32, torch.int16, torch.int8)
_TYPES = (*_FLOATS, *_INTEGERS, torch.uint8, torch.bool)  # those that numpy has too
_ROWS = 2


def check_own_model(build: Callable[[], nn.Module], label: str, shape: Shape, n_classes: int, optimizer: str) -> None:
    """Check that a module can be used: it predicts and trains, one row too, and another process can continue it.

    Args:
        build: builds the module, each time with the same parameters.
        label: the name of the module in errors.
        shape: shape of one sample.
        n_classes: C.
        optimizer: "sgd" or "adam".

    Raises:
        UserError: if it cannot be used.
    """
    x = np.random.default_rng(0).random((_ROWS, *shape), np.float32)
    batch = Batch(x, np.full((_ROWS, n_classes), 1 / n_classes, np.float32), np.ones(_ROWS, np.float32))
    model = build()
    _check_tensors(model, label)
    with one_thread():
        for n in (_ROWS, 1):
            _check_logits(model.eval(), x[:n], label, n_classes)
        first, second = TorchLearner(model, optimizer), TorchLearner(build(), optimizer)
        for n in (_ROWS, 1):
            _train(first, batch.rows(np.arange(n)), label)
        second.load_state(first.state())
        results = [_train(learner, batch, label) for learner in (first, second)]
    if any(not np.array_equal(value, results[1][name], equal_nan=True) for name, value in results[0].items()):
        raise UserError(
            f"model {label} has state that another process cannot continue from: keep what a training step changes in "
            "parameters and persistent buffers (register_buffer), and draw random numbers from torch, numpy or random"
        )


def _train(learner: TorchLearner, batch: Batch, label: str) -> dict[str, np.ndarray]:
    """Make a training step, and return the state and the logits after it."""
    learner.set_noise(0)
    try:
        learner.train([batch], 1e-3)
    except Exception as error:  # a user's module may raise anything
        where = f"a batch of {_samples(len(batch))} of shape {list(batch.x.shape[1:])}"
        advice = "" if len(batch) > 1 else "; layers such as torch.nn.BatchNorm2d use running statistics for it"
        raise UserError(f"model {label} fails in training on {where}: {one_line(error)}{advice}") from error
    return {**learner.state(), "logits": learner.predict_logits(batch.x)}


def _check_tensors(model: nn.Module, label: str) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if tensor.dtype not in _TYPES or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            kind = f"{tensor.dtype}, {tensor.device}, {tensor.layout}".replace("torch.", "")
            raise UserError(f"model {label}: {name} is {kind}: use dense float32 tensors on the CPU")
    if others := [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]:
        raise UserError(f"model {label} keeps state that is not a tensor ({others[0]}): use register_buffer for it")
    owners: dict[int, str] = {}
    for name, tensor in sorted(tensors, key=lambda item: not item[1].requires_grad):  # those that are trained first
        memory = tensor.untyped_storage().data_ptr()
        if tensor.numel() and memory in owners:
            raise UserError(
                f"model {label}: {owners[memory]} and {name} share memory: assign the same parameter to both modules"
            )
        if tensor.requires_grad:
            owners[memory] = name


def _check_logits(model: nn.Module, x: np.ndarray, label: str, n_classes: int) -> None:
    try:
        with torch.inference_mode():
            logits = model(tensor_of(x))
    except Exception as error:  # a user's module may raise anything
        shape = list(x.shape[1:])
        raise UserError(f"model {label} fails on {_samples(len(x))} of shape {shape}: {one_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.shape != (len(x), n_classes):
        result = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"model {label} must return logits [n, {n_classes}], but for {_samples(len(x))} it returned {result}"
        )
    if not logits.is_floating_point():
        raise UserError(f"model {label} must return logits as floating-point numbers, not as {logits.dtype}")


def _samples(n: int) -> str:
    return "1 sample" if n == 1 else f"{n} samples"
