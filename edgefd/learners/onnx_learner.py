"""`OnnxLearner`: trains by running the exported training step in ONNX Runtime, on one thread."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError, UserError
from edgefd.learners.batches import Batch
from edgefd.learners.graphs import Graphs, State

_PREDICT_ROWS = 256
_LINE = 16


class Sessions:
    """ONNX Runtime sessions of a model's graphs, made where they are first used: they do not survive a fork."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self._step: TrainingStep | None = None
        self._logits: Any = None
        self._process = os.getpid()

    @property
    def step(self) -> TrainingStep:
        """The training step."""
        self._leave_parent()
        if self._step is None:
            self._step = TrainingStep(self.graphs)
        return self._step

    def logits(self, feed: dict[str, Any]) -> Float32:
        """Logits, float32 [n, C]."""
        self._leave_parent()
        if self._logits is None:
            self._logits = _open(self.graphs.logits)
        out: Float32 = self._logits.run(["logits"], feed)[0]
        return out

    def _leave_parent(self) -> None:
        if self._process != os.getpid():
            self._step, self._logits, self._process = None, None, os.getpid()


class TrainingStep:
    """The graph of one training step, over two copies of the state that take turns: no step allocates memory."""

    def __init__(self, graphs: Graphs) -> None:
        self._session = _open(graphs.step)
        shapes = {i.name: tuple(i.shape) for i in self._session.get_inputs()}
        state = {name: shapes.pop(name) for name in graphs.state}
        fixed = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        for name, value in graphs.constants.items():
            fixed[name][...] = value
        self._fixed = fixed  # the bindings hold addresses, not arrays
        self._size = graphs.batch
        self._rate, self._loss = fixed["lr"], np.zeros((), np.float32)
        self._rows = (fixed["x"], fixed["targets"], fixed["weights"])
        self._now, self._next = (np.zeros(block_size(state), np.float32) for _ in range(2))
        now, after = (views(block, state) for block in (self._now, self._next))
        self._turn = self._binding({**fixed, **now}, after)
        self._other = self._binding({**fixed, **after}, now)

    def start(self, state: Float32, lr: float) -> None:
        """Go on from a block of state, at this learning rate."""
        self._rate[...] = lr
        np.copyto(self._now, state)

    def run(self, batch: Batch) -> float:
        """One step; its loss. Rows up to the graph's batch are filled with zeros of weight 0, which change nothing."""
        if not 0 < len(batch) <= self._size:
            raise UserError(f"a batch of {len(batch)} rows for a graph of {self._size}")
        for array, rows in zip(self._rows, (batch.x, batch.targets, batch.weights), strict=True):
            array[: len(batch)] = rows
            array[len(batch) :] = 0
        self._session.run_with_iobinding(self._turn)
        self._turn, self._other = self._other, self._turn
        self._now, self._next = self._next, self._now
        return float(self._loss)

    @property
    def state(self) -> Float32:
        """The block of state after the steps so far; good until the next one."""
        return self._now

    def _binding(self, inputs: State, outputs: State) -> Any:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in {**{f"new/{name}": a for name, a in outputs.items()}, "loss": self._loss}.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding


class OnnxLearner:
    """A model with its optimizer in ONNX Runtime. See `edgefd.learners.learner.Learner`.

    Args:
        sessions: of its graphs; learners of the same model share them.
        state: where to start.
        allocate: makes the arrays that hold the state; a simulation passes shared memory.
    """

    def __init__(
        self,
        sessions: Sessions,
        state: State,
        allocate: Callable[[tuple[int, ...]], Float32] = lambda shape: np.zeros(shape, np.float32),
    ) -> None:
        self._sessions = sessions
        shapes = {name: state[name].shape for name in sessions.graphs.state if name in state}
        self._block = allocate((block_size(shapes),))
        self._state = views(self._block, shapes)
        self.load_state(state)

    def train(self, batches: Iterable[Batch], lr: float) -> float:
        """One step a batch; mean loss.

        Raises:
            RunError: when loss or state stop being finite. The state is then what it was before the call.
        """
        step = self._sessions.step
        step.start(self._block, lr)
        losses = [step.run(batch) for batch in batches]
        if not losses:
            return 0.0
        if not np.isfinite([*losses, step.state.sum()]).all():
            raise RunError("a training step gave numbers that are not finite: try a smaller train.lr")
        np.copyto(self._block, step.state)
        return sum(losses) / len(losses)

    def predict_logits(self, x: Float32) -> Float32:
        """Logits, float32 [n, C]."""
        graphs = self._sessions.graphs
        parameters = {name: v for name, v in self._state.items() if name.startswith("model/")}
        parts = [
            self._sessions.logits({**parameters, "x": np.ascontiguousarray(x[i : i + _PREDICT_ROWS], np.float32)})
            for i in range(0, len(x), _PREDICT_ROWS)
        ]
        return np.concatenate(parts) if parts else np.empty((0, graphs.n_classes), np.float32)

    def state(self) -> State:
        """Parameters as `model/...`, optimizer tensors as `optimizer/...`."""
        return {name: v.copy() for name, v in self._state.items()}

    def load_state(self, state: State) -> None:
        """Continue from a `state()`.

        Raises:
            UserError: if it is not of this model, or not finite.
        """
        for name in self._sessions.graphs.state:
            if name not in state or state[name].shape != self._state[name].shape:
                raise UserError(f"the state holds no {name!r} of this model's shape")
            if not np.isfinite(state[name]).all():
                raise UserError(f"the state's {name!r} is not finite")
        for name, array in self._state.items():
            np.copyto(array, state[name])


def block_size(shapes: dict[str, tuple[int, ...]]) -> int:
    """Numbers in a block that holds arrays of those shapes, each from a multiple of 64 bytes on."""
    return sum(_aligned(shape) for shape in shapes.values())


def views(block: Float32, shapes: dict[str, tuple[int, ...]]) -> State:
    """The arrays in such a block."""
    arrays, start = {}, 0
    for name, shape in shapes.items():
        arrays[name] = block[start : start + math.prod(shape)].reshape(shape)
        start += _aligned(shape)
    return arrays


def _aligned(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // _LINE) * _LINE


def _open(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # as fast, and 15 MB less
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
