"""Export of a torch module as ONNX graphs, and of its initial state as arrays."""

from __future__ import annotations

import torch
from torch import nn

from edgefd.export.operators import to_onnx
from edgefd.export.state import initial_state
from edgefd.export.step import constants_of, trace_logits, trace_step
from edgefd.learners.graphs import Graphs, State

LEARNING_RATE = 0.01  # of the step of the self-test
SECOND_MOMENT = 1e-6  # initial second moments of Adam in the self-test


def export_graphs(model: nn.Module, optimizer: str, batch: int, shape: tuple[int, ...], n_classes: int) -> Graphs:
    """Export the training step and the logits of a model.

    Raises:
        UserError: for an operator or layer that a device cannot run, with its name.
    """
    step = trace_step(model, optimizer, batch, shape, n_classes)
    return Graphs(
        step=to_onnx(step).SerializeToString(),
        logits=to_onnx(trace_logits(model, shape, step.state)).SerializeToString(),
        state=step.state,
        constants=constants_of(optimizer),
        batch=batch,
        n_classes=n_classes,
        shape=shape,
    )


def initial_arrays(model: nn.Module, optimizer: str) -> State:
    """Return the initial state of a learner of this model, and the buffers that never change: all float32."""
    return {name: tensor.to(torch.float32).numpy() for name, tensor in initial_state(model, optimizer).items()}
