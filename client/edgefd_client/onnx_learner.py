"""`OnnxLearner`: trains by running the exported training step in ONNX Runtime, on one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort

from edgefd.bundle import Graphs, State
from edgefd.errors import RunError, UserError
from edgefd.knowledge import Float32
from edgefd.learner import Lesson

_PREDICT_ROWS = 256


class Sessions:
    """ONNX Runtime sessions of a model's graphs, made where they are first used: they do not survive a fork."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self._made: dict[str, Any] = {}
        self._process = os.getpid()

    def step(self, feed: dict[str, Any]) -> list[np.ndarray]:
        """New state, in order, and the loss."""
        names = [*(f"new/{name}" for name in self.graphs.state), "loss"]
        out: list[np.ndarray] = self._session("step").run(names, feed)
        return out

    def logits(self, feed: dict[str, Any]) -> Float32:
        """Logits, float32 [n, C]."""
        out: Float32 = self._session("logits").run(["logits"], feed)[0]
        return out

    def _session(self, which: str) -> Any:
        if self._process != os.getpid():
            self._made, self._process = {}, os.getpid()
        if which not in self._made:
            self._made[which] = _open(self.graphs.step if which == "step" else self.graphs.logits)
        return self._made[which]


class OnnxLearner:
    """A model with its optimizer in ONNX Runtime. See `edgefd.learner.Learner`.

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
        self._state = {name: allocate(state[name].shape) for name in sessions.graphs.state if name in state}
        self.load_state(state)

    def train(self, batches: Iterable[Lesson], lr: float) -> float:
        """One step a batch; mean loss.

        Raises:
            RunError: when loss or state stop being finite. The state is then what it was before the call.
        """
        names = self._sessions.graphs.state
        state, losses = self._state, []
        for batch in batches:
            *new, loss = self._sessions.step({**state, **self._inputs(batch, lr)})
            if not np.isfinite(loss) or not all(np.isfinite(v).all() for v in new):
                raise RunError("a training step gave numbers that are not finite: lower the learning rate")
            state = dict(zip(names, new, strict=True))
            losses.append(float(loss))
        if losses:
            self._keep(state)
        return float(np.mean(losses)) if losses else 0.0

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
        self._keep(state)

    def _keep(self, state: State) -> None:
        for name, array in self._state.items():
            np.copyto(array, state[name])

    def _inputs(self, batch: Lesson, lr: float) -> dict[str, Any]:
        graphs = self._sessions.graphs
        if not 0 < len(batch) <= graphs.batch:
            raise UserError(f"a batch of {len(batch)} rows for a graph of {graphs.batch}")
        numbers = {"lr": lr, **graphs.constants}
        return {
            "x": _padded(batch.x, graphs.batch),
            "targets": _padded(batch.targets, graphs.batch),
            "weights": _padded(batch.weights, graphs.batch),
            **{name: np.array(value, np.float32) for name, value in numbers.items()},
        }


def _padded(rows: Float32, n: int) -> Float32:
    """With rows of zeros up to n: rows of weight 0 change nothing."""
    rows = np.ascontiguousarray(rows, np.float32)
    return rows if len(rows) == n else np.concatenate([rows, np.zeros((n - len(rows), *rows.shape[1:]), np.float32)])


def _open(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # as fast, and 15 MB less
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
