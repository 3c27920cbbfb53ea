"""`OnnxLearner`: training with the exported training step in ONNX Runtime, on one thread."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError, UserError
from edgefd.core.objects import one_line
from edgefd.learners.batches import Batch
from edgefd.learners.graphs import ROWS, Graphs, State
from edgefd.learners.learner import Proximal
from edgefd.learners.mask_noise import fill, noise_inputs
from edgefd.learners.optimizer import BETAS, MOMENTUM, update
from edgefd.learners.session import EXTENDED, open_session, session_options

_PREDICT_ROWS = 256
_ALIGNMENT = 16  # numbers: arrays begin at multiples of 64 bytes


FIRST_STEP = (0, 1, 0)
"""keys of the random masks in the first step of a new learner"""


class Sessions:
    """ONNX Runtime sessions of the graphs of a model.

    A session is created in the process that first uses it, because sessions do not survive a fork.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self._step: TrainingStep | None = None
        self._logits: Any = None
        self._process = os.getpid()

    @property
    def step(self) -> TrainingStep:
        """The session of the training step."""
        self._reset_after_fork()
        if self._step is None:
            self._step = TrainingStep(self.graphs)
        return self._step

    def logits(self, feed: dict[str, Any]) -> Float32:
        """Return the logits for the inputs of the graph, float32 [n, C]."""
        self._reset_after_fork()
        if self._logits is None:
            self._logits = _open(self.graphs.logits)
        try:
            out: Float32 = self._logits.run(["logits"], feed)[0]
        except Exception as error:  # the errors of ONNX Runtime have no common base class
            raise RunError(f"the model cannot compute logits: {one_line(error)[:300]}") from error
        return out

    def _reset_after_fork(self) -> None:
        if self._process != os.getpid():
            self._step, self._logits, self._process = None, None, os.getpid()


class TrainingStep:
    """The graph of one training step. Two copies of the state alternate, so that no step allocates memory."""

    def __init__(self, graphs: Graphs) -> None:
        self._session = _open(graphs.step)
        shapes = {i.name: tuple(i.shape) for i in self._session.get_inputs()}
        state = {name: shapes.pop(name) for name in graphs.state}
        fixed = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        for name, value in graphs.constants.items():
            fixed[name][...] = value
        self._fixed = fixed  # the bindings hold addresses, not arrays
        self._batch_rows = graphs.batch
        self._rate, self._loss = fixed["lr"], np.zeros((), np.float32)
        self._rows = (fixed["x"], fixed["targets"], fixed["weights"])
        self._is_row = fixed.get(ROWS, np.zeros(graphs.batch, np.float32))
        self._noise = [(name, fixed[name]) for name in noise_inputs(fixed)]
        self._current, self._next = (np.zeros(block_size(state), np.float32) for _ in range(2))
        self._arrays, self._next_arrays = (views(block, state) for block in (self._current, self._next))
        self._binding_now = self._binding({**fixed, **self._arrays}, self._next_arrays)
        self._binding_next = self._binding({**fixed, **self._next_arrays}, self._arrays)

    def start(self, state: Float32, lr: float) -> None:
        """Start from a block of state, with this learning rate."""
        self._rate[...] = lr
        np.copyto(self._current, state)

    def run(self, batch: Batch, noise: Sequence[int] = FIRST_STEP) -> float:
        """Make one step and return its loss. Missing rows are filled with zeros of weight 0, which change nothing.

        `noise` are the keys of the random masks of the step (`edgefd.learners.mask_noise`).
        """
        if not 0 < len(batch) <= self._batch_rows:
            raise UserError(
                f"a batch of {len(batch)} rows does not fit the training graph: use 1 to {self._batch_rows} rows"
            )
        for array, rows in zip(self._rows, (batch.x, batch.targets, batch.weights), strict=True):
            array[: len(batch)] = rows
            array[len(batch) :] = 0
        self._is_row[: len(batch)], self._is_row[len(batch) :] = 1, 0
        for name, array in self._noise:
            fill(array, name, len(batch), self._batch_rows, noise)
        try:
            self._session.run_with_iobinding(self._binding_now)
        except Exception as error:  # the errors of ONNX Runtime have no common base class
            raise RunError(f"the training step cannot run: {one_line(error)[:300]}") from error
        self._binding_now, self._binding_next = self._binding_next, self._binding_now
        self._current, self._next = self._next, self._current
        self._arrays, self._next_arrays = self._next_arrays, self._arrays
        return float(self._loss)

    def gradients(self, batch: Batch, noise: Sequence[int] = FIRST_STEP) -> tuple[State, float]:
        """Return the gradient of each trained parameter, by its name without `model/`, and the loss.

        From moments of 0, the new first moment is g (SGD) or (1 - b1) g (Adam), where g is the gradient. The trained
        parameters and the optimizer stay as they are. Other state, such as the statistics of batch normalisation, is
        that after the step.
        """
        before = self._current.copy()
        for name, array in self._arrays.items():
            if name.startswith("optimizer/"):
                array[...] = 0
        loss = self.run(batch, noise)
        slot, factor = ("exp_avg", 1 - BETAS[0]) if "optimizer/step" in self._arrays else ("momentum_buffer", 1.0)
        prefix = f"optimizer/{slot}/"
        found = {n.removeprefix(prefix): a / factor for n, a in self._arrays.items() if n.startswith(prefix)}
        shapes = {name: array.shape for name, array in self._arrays.items()}
        for name, array in views(before, shapes).items():
            if name.startswith("optimizer/") or name.removeprefix("model/") in found:
                np.copyto(self._arrays[name], array)
        return found, loss

    @property
    def inputs(self) -> Collection[str]:
        """Names of the inputs of the graph besides its state."""
        return self._fixed

    @property
    def state(self) -> Float32:
        """The block of state after the steps so far, valid until the next step."""
        return self._current

    @property
    def arrays(self) -> State:
        """The arrays of `state` by name. A change of them changes the state."""
        return self._arrays

    def _binding(self, inputs: State, outputs: State) -> Any:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in {**{f"new/{name}": a for name, a in outputs.items()}, "loss": self._loss}.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding


class OnnxLearner:
    """A model that is trained in ONNX Runtime. See `edgefd.learners.learner.Learner`.

    Args:
        sessions: the sessions of the graphs of the model; learners of the same model share them.
        state: the initial state.
        allocate: creates the block of memory that holds the state; a simulation passes shared memory.
        momentum: of SGD; 0 = none.
        weight_decay: factor of the parameters that is added to their gradients, as in `torch.optim`.
    """

    def __init__(
        self,
        sessions: Sessions,
        state: State,
        allocate: Callable[[tuple[int, ...]], Float32] = lambda shape: np.zeros(shape, np.float32),
        momentum: float = MOMENTUM,
        weight_decay: float = 0.0,
    ) -> None:
        self._sessions = sessions
        self._momentum, self._weight_decay = momentum, weight_decay
        self._noise: tuple[int, ...] = (0,)
        self._n_trained = 0
        """calls of `train` since the last `set_noise`"""
        shapes = {name: state[name].shape for name in sessions.graphs.state if name in state}
        self._block = allocate((block_size(shapes),))
        self._state = views(self._block, shapes)
        self.load_state(state)

    def train(self, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        """Make one step per batch. Return the mean loss, without the proximal term.

        The graph makes the update that it was exported with. For other settings, it computes the gradient only.

        Raises:
            RunError: if the loss or the state is not finite. The state then remains as it was before the call.
        """
        step = self._sessions.step
        step.start(self._block, lr)
        as_exported = (self._momentum, self._weight_decay, proximal) == (MOMENTUM, 0.0, None)
        self._n_trained += 1
        with_noise = ((batch, (*self._noise, self._n_trained, i)) for i, batch in enumerate(batches))
        losses = [
            step.run(batch, noise) if as_exported else self._step_outside(step, batch, noise, lr, proximal)
            for batch, noise in with_noise
        ]
        if not losses:
            return 0.0
        if not np.isfinite([*losses, step.state.sum()]).all():
            raise RunError("a training step gave numbers that are not finite: set a smaller train.lr")
        np.copyto(self._block, step.state)
        return sum(losses) / len(losses)

    def _step_outside(
        self, step: TrainingStep, batch: Batch, noise: Sequence[int], lr: float, proximal: Proximal | None
    ) -> float:
        """Make one step with the gradient of the graph and the update of `edgefd.learners.optimizer`."""
        gradients, loss = step.gradients(batch, noise)
        for name, gradient in gradients.items():
            theta = step.arrays[f"model/{name}"]
            if proximal is not None:
                gradient += proximal.mu * (theta - proximal.centre[f"model/{name}"])
            if self._weight_decay:
                gradient += self._weight_decay * theta
        update(step.arrays, gradients, lr, self._momentum)
        return loss

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        """Train on rows of the teacher and private rows alike. See `edgefd.learners.learner.Learner`."""
        return self.train(batches, lr)

    def set_noise(self, *keys: int) -> None:
        """Set the keys of the random masks of later training steps. See `edgefd.learners.learner.Learner`."""
        self._noise, self._n_trained = keys, 0

    def predict_logits(self, x: Float32) -> Float32:
        """Return the logits of samples, float32 [n, C]."""
        graphs = self._sessions.graphs
        parameters = {name: v for name, v in self._state.items() if name.startswith("model/")}
        parts = [
            self._sessions.logits({**parameters, "x": np.ascontiguousarray(x[i : i + _PREDICT_ROWS], np.float32)})
            for i in range(0, len(x), _PREDICT_ROWS)
        ]
        return np.concatenate(parts) if parts else np.empty((0, graphs.n_classes), np.float32)

    def state(self) -> State:
        """Return parameters as `model/...` and optimizer tensors as `optimizer/...`."""
        return {name: v.copy() for name, v in self._state.items()}

    def load_state(self, state: State) -> None:
        """Restore a state that `state()` returned.

        Raises:
            UserError: if the state does not belong to this model or is not finite.
        """
        for name in self._sessions.graphs.state:
            if name not in state or state[name].shape != self._state[name].shape:
                raise UserError(f"the state has no array {name!r} of the right shape: use a state of the same model")
            if not np.isfinite(state[name]).all():
                raise UserError(f"the array {name!r} of the state is not finite: use another state")
        for name, array in self._state.items():
            np.copyto(array, state[name])


def block_size(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the size, in numbers, of a block that holds arrays of these shapes, aligned to 64 bytes."""
    return sum(_aligned(shape) for shape in shapes.values())


def views(block: Float32, shapes: dict[str, tuple[int, ...]]) -> State:
    """Return the arrays of these shapes as views of a block of `block_size` numbers."""
    arrays, start = {}, 0
    for name, shape in shapes.items():
        arrays[name] = block[start : start + math.prod(shape)].reshape(shape)
        start += _aligned(shape)
    return arrays


def _aligned(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT


def _open(model: bytes) -> Any:
    options = session_options(1)
    options.enable_mem_pattern = False  # equally fast, and needs 15 MB less
    options.graph_optimization_level = EXTENDED
    return open_session(model, options)
