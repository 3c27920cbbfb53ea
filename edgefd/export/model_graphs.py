"""Export a torch module as ONNX graphs, and its initial state as arrays."""

from __future__ import annotations

from torch import nn

from edgefd.export.operators import to_onnx
from edgefd.export.step import constants_of, initial_state, trace_logits, trace_step
from edgefd.learners.graphs import Graphs, State

LEARNING_RATE = 0.01  # of the self-test's one step
SECOND_MOMENT = 1e-6  # where it starts


def export_graphs(model: nn.Module, optimizer: str, batch: int, shape: tuple[int, ...], n_classes: int) -> Graphs:
    """The training step and the logits of a model.

    Raises:
        UserError: naming an operator or layer that a device cannot run.
    """
    return Graphs(
        step=to_onnx(trace_step(model, optimizer, batch, shape, n_classes)).SerializeToString(),
        logits=to_onnx(trace_logits(model, shape)).SerializeToString(),
        state=tuple(initial_state(model, optimizer)),
        constants=constants_of(optimizer),
        batch=batch,
        n_classes=n_classes,
        shape=shape,
    )


def initial_arrays(model: nn.Module, optimizer: str) -> State:
    """What a learner of this model starts from."""
    return {name: tensor.numpy() for name, tensor in initial_state(model, optimizer).items()}
