"""Whether exported graphs do what torch does: one step from a shared state on real data, and the logits."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import copy
from typing import Any

import numpy as np
import onnxruntime as ort
from torch import nn

from edgefd.bundle import Graphs, State
from edgefd.data.datasets import load_dataset
from edgefd.errors import UserError
from edgefd.knowledge import Float32
from edgefd.learner import Lesson, one_hot
from edgefd.torch_learner import TorchLearner

TOLERANCE = 1e-5  # of parameters after one step, relative to the largest of each tensor
_WARM_UP = 8  # steps of torch before the shared state: Adam's first steps divide rounding noise by itself


def verify(graphs: Graphs, model: nn.Module, optimizer: str, samples: Float32) -> dict[str, float]:
    """Compare with torch; the errors found.

    `step` and `loss` compare with torch in float32, `logits` likewise; `step_float64` and `torch_float64` are the
    distances of both from torch in float64, on samples with noise: it has no ties that rounding could break.

    Raises:
        UserError: if they differ by more than `TOLERANCE`, unless torch itself is as far from float64.
    """
    rng = np.random.default_rng(0)
    samples = _real_samples(samples)
    learner = TorchLearner(copy.deepcopy(model), optimizer)
    for _ in range(_WARM_UP):
        learner.train([_lesson(graphs, samples, rng)], 0.003)
    shared = learner.state()
    start = as_onnx_state(graphs, model, shared)
    logits = _run(graphs.logits, ["logits"], _parameters(start) | {"x": samples[:37]})[0]
    errors = {"logits": float(np.abs(logits - learner.predict_logits(samples[:37])).max())}
    lesson = _lesson(graphs, samples, rng)
    new, loss = run_step(graphs, start, lesson, 0.003)
    errors["loss"] = abs(loss - learner.train([lesson], 0.003))
    errors["step"] = distance(new, as_onnx_state(graphs, model, learner.state()))

    x = (lesson.x + 0.1 * rng.standard_normal(lesson.x.shape)).astype(np.float32)
    noisy = Lesson(x, lesson.targets, lesson.weights)
    exact = _float64_step(model, optimizer, shared, noisy)
    learner.load_state(shared)
    learner.train([noisy], 0.003)
    control = as_onnx_state(graphs, model, exact)
    errors["step_float64"] = distance(run_step(graphs, start, noisy, 0.003)[0], control)
    errors["torch_float64"] = distance(as_onnx_state(graphs, model, learner.state()), control)

    allowed = max(TOLERANCE, 3 * errors["torch_float64"])
    for name in ("step", "step_float64"):
        if not errors[name] <= allowed:
            raise UserError(
                f"the exported training step disagrees with torch: {name} {errors[name]:.1e}, allowed {allowed:.1e}"
            )
    if not errors["logits"] <= 1e-4:
        raise UserError(f"the exported model disagrees with torch: logits differ by {errors['logits']:.1e}")
    return errors


def run_step(graphs: Graphs, state: State, lesson: Lesson, lr: float) -> tuple[State, float]:
    """One step of the exported graph: new state and loss."""
    missing = graphs.batch - len(lesson)
    numbers = {"lr": lr, **graphs.constants}
    feed = {
        **state,
        "x": np.pad(lesson.x, ((0, missing), *((0, 0) for _ in graphs.shape))),
        "targets": np.pad(lesson.targets, ((0, missing), (0, 0))),
        "weights": np.pad(lesson.weights, (0, missing)),
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
    }
    *new, loss = _run(graphs.step, [*(f"new/{name}" for name in graphs.state), "loss"], feed)
    return dict(zip(graphs.state, new, strict=True)), float(loss)


def as_onnx_state(graphs: Graphs, model: nn.Module, state: State) -> State:
    """A `TorchLearner.state()` under the names of the exported graph."""
    index = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    out = {}
    for name in graphs.state:
        if name.startswith("model/"):
            out[name] = state[name]
        elif name == "optimizer/step":
            out[name] = state["optimizer/0/step"]
        else:
            _, slot, parameter = name.split("/")
            out[name] = state[f"optimizer/{index[parameter]}/{slot}"]
    return out


def distance(a: State, b: State) -> float:
    """The largest difference of any parameter, relative to the largest of its tensor; NaN if anything is."""
    names = [name for name in b if name.startswith("model/")]
    return float(np.max([np.abs(a[n] - b[n]).max() / max(float(np.abs(b[n]).max()), 1e-12) for n in names]))


def _real_samples(samples: Float32) -> Float32:
    """mnist_mini where the model takes such images, for their flat areas, with the model's own samples elsewhere."""
    if samples.shape[1:] != (1, 28, 28):
        return samples
    x = load_dataset("mnist_mini").x_train[:2000].astype(np.float32)
    out: Float32 = (x - x.mean()) / x.std()
    return out


def _lesson(graphs: Graphs, samples: Float32, rng: np.random.Generator) -> Lesson:
    rows = rng.integers(0, len(samples), graphs.batch)
    targets = one_hot(rng.integers(0, graphs.n_classes, graphs.batch), graphs.n_classes)
    return Lesson(samples[rows], targets, rng.uniform(0, 1, graphs.batch).astype(np.float32))


def _float64_step(model: nn.Module, optimizer: str, shared: State, lesson: Lesson) -> State:
    learner = TorchLearner(copy.deepcopy(model).double(), optimizer)
    wide = {k: v if k.endswith("/step") else v.astype(np.float64) for k, v in shared.items()}
    learner.load_state(wide)
    exact: Any = Lesson(*(v.astype(np.float64) for v in (lesson.x, lesson.targets, lesson.weights)))  # type: ignore[arg-type]
    learner.train([exact], 0.003)
    return learner.state()


def _parameters(state: State) -> State:
    return {name: v for name, v in state.items() if name.startswith("model/")}


def _run(model: bytes, outputs: list[str], feed: State) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    out: list[np.ndarray] = session.run(outputs, feed)
    return out
