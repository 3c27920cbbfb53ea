"""Comparison of exported graphs with torch in float64: logits, gradients, optimizer and statistics of a training step.

The rule: from a state after a few steps, on real samples, the graph must agree with torch on a full batch, on a few
rows (the rest is padding), and on one row if the module has batch normalisation. Compared are the gradient of each
parameter and each buffer after the step, with torch in float64; and the update, with the formula of the optimizer in
float64 for the gradient of the graph. A difference counts relative to the largest value of its tensor, at least to
`SMALL` times the largest gradient of the model. It may be `TOLERANCE`, or `FACTOR` times that of torch in float32. A
batch that fails is replaced by another one, up to `TRIES` times, of which the last ones have noise on the samples:
rounding decides whether a unit whose value is almost 0 is active, or which of two almost equal values is the maximum,
so on some batches any two programs differ, and often on images with flat areas. A graph that computes something else
differs on every batch. Gradients are compared instead of steps, because Adam divides a
gradient that is almost 0 by its own size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.data.datasets import load_dataset
from edgefd.export.state import bare
from edgefd.learners.batches import Batch, one_hot
from edgefd.learners.graphs import ROWS, Graphs, State
from edgefd.learners.noise import CounterMasks
from edgefd.learners.onnx_learner import FIRST_STEP, Sessions, TrainingStep
from edgefd.learners.optimizer import MOMENTUM, update
from edgefd.learners.torch_learner import TorchLearner, one_thread
from edgefd.learners.training_step import normalisations

TOLERANCE = 1e-5
FACTOR = 3
SMALL = 0.01
TRIES = 5
LR = 0.003
_WARM_UP = 8  # steps in torch before the comparison
_FEW_ROWS = 6
_REAL, _NOISE = 2, 0.1  # batches of real samples; deviation of the noise on the samples of the others
_Differences = dict[str, float]


def verify(graphs: Graphs, model: nn.Module, optimizer: str, samples: Float32) -> dict[str, float]:
    """Compare exported graphs with torch in float64, by the rule of this module.

    Returns:
        The largest differences: `step` of gradients, buffers, update and loss; `torch` the same of torch in float32;
        `logits` those of the logits.

    Raises:
        UserError: if they disagree.
    """
    with one_thread():
        return _verify(graphs, model, optimizer, _real_samples(samples))


def _verify(graphs: Graphs, model: nn.Module, optimizer: str, samples: Float32) -> dict[str, float]:
    rng = np.random.default_rng(0)
    learner = TorchLearner(copy.deepcopy(model), optimizer)
    for _ in range(_WARM_UP):
        learner.train([_batch(graphs, samples, graphs.batch, rng)], LR)
    shared = learner.state()
    errors = {"logits": _compare_logits(graphs, learner, samples)}
    step = TrainingStep(graphs)
    sizes = {"a full batch": graphs.batch, "a batch of few rows": min(_FEW_ROWS, graphs.batch)}
    if ROWS in step.inputs:
        sizes["a batch of one row"] = 1
    for name, rows in sizes.items():
        batches = [_batch(graphs, samples, rows, rng, _NOISE * (i >= _REAL)) for i in range(TRIES)]
        found, of_torch = _agreeing(graphs, step, model, shared, batches, name)
        for key, value in (("step", found), ("torch", of_torch)):
            errors[key] = max(errors.get(key, 0.0), value)
    return errors


def _agreeing(
    graphs: Graphs, step: TrainingStep, model: nn.Module, shared: State, batches: Sequence[Batch], name: str
) -> tuple[float, float]:
    """Return the largest difference of the graph and that of torch in float32, on the first batch on which they agree.

    Raises:
        UserError: if they agree on none.
    """
    closest = (np.inf, "", 0.0)
    for batch in batches:
        reference = _torch_step(model, shared, batch, torch.float64)
        of_torch = _differences(_torch_step(model, shared, batch, torch.float32), reference)
        found = _differences(_graph_step(step, shared, batch), reference)
        excess = {n: found[n] / max(TOLERANCE, FACTOR * of_torch.get(n, 0.0)) for n in found}
        worst = max(excess, key=lambda n: excess[n] if excess[n] == excess[n] else np.inf)
        if excess[worst] <= 1:
            return max(found.values()), max(of_torch.values())
        closest = min(closest, (excess[worst], worst, found[worst]))
    _, worst, difference = closest
    advice = "" if name == "a full batch" else ": its result for a row must not depend on how many rows a batch has"
    raise UserError(
        f"the exported training step disagrees with torch on {name}: {worst} differs by {difference:.1e} from float64, "
        f"and at most {TOLERANCE:.0e} is allowed, or {FACTOR} times the difference of torch in float32{advice}"
    )


def _compare_logits(graphs: Graphs, learner: TorchLearner, samples: Float32) -> float:
    x = samples[:37]
    expected = learner.predict_logits(x)
    state = learner.state()
    parameters = {name: state[name] for name in graphs.state if name.startswith("model/")}
    logits = Sessions(graphs).logits({**parameters, "x": np.ascontiguousarray(x)})
    error = float(np.abs(logits - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not error <= 1e-4:
        raise UserError(f"the exported model disagrees with torch: logits differ by {error:.1e}")
    return error


def run_step(graphs: Graphs, state: State, batch: Batch, lr: float) -> tuple[State, float]:
    """Run one step of the exported graph, with the random masks of a new learner. Return the new state and the loss."""
    step = TrainingStep(graphs)
    _load(step, state, lr)
    loss = step.run(batch, FIRST_STEP)
    return {name: array.copy() for name, array in step.arrays.items()}, loss


def _load(step: TrainingStep, state: State, lr: float) -> None:
    step.start(step.state, lr)
    for name, array in step.arrays.items():
        array[...] = state[name] if name in state else state["model/" + name.removeprefix("counter/")]


def _graph_step(step: TrainingStep, shared: State, batch: Batch) -> State:
    """Return gradients, buffers and loss of the graph, and the differences of its update from the formula."""
    _load(step, shared, LR)
    gradients, loss = step.gradients(batch, FIRST_STEP)
    buffers = {name: array.copy() for name, array in step.arrays.items() if _is_buffer(name, gradients)}
    _load(step, shared, LR)
    expected = {name: array.astype(np.float64) for name, array in step.arrays.items() if name not in buffers}
    step.run(batch, FIRST_STEP)
    update(expected, gradients, LR, MOMENTUM)
    updates: State = {f"update of {n}": np.array(_relative(step.arrays[n], value)) for n, value in expected.items()}
    names = {f"gradient of {name}": value for name, value in gradients.items()}
    return {**names, **{bare(n): b for n, b in buffers.items()}, "loss": np.array(loss), **updates}


def _is_buffer(name: str, gradients: Mapping[str, np.ndarray]) -> bool:
    return not name.startswith("optimizer/") and bare(name) not in gradients


def _torch_step(model: nn.Module, shared: State, batch: Batch, dtype: torch.dtype) -> State:
    """Return gradients, buffers and loss of the same step in torch, with its own autograd, in this type."""
    model = copy.deepcopy(model).to(dtype)
    model.load_state_dict({bare(n): torch.from_numpy(v) for n, v in shared.items() if n.startswith("model/")})
    for layer in normalisations(model.train()):
        layer.train(len(batch) > 1)
    x, targets, weights = (torch.from_numpy(v).to(dtype) for v in (batch.x, batch.targets, batch.weights))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with _default_type(dtype), CounterMasks(FIRST_STEP):
        each = -(targets * torch.log_softmax(model(x).to(dtype), 1)).sum(1)
        loss = (each * weights).sum() / weights.sum()
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    out = {f"gradient of {name}": g.numpy() for name, g in zip(trained, gradients, strict=True)}
    return out | {name: b.numpy() for name, b in model.named_buffers()} | {"loss": loss.detach().numpy()}


@contextmanager
def _default_type(dtype: torch.dtype) -> Iterator[None]:
    """Let the module create tensors of this type, such as `torch.zeros(...)`, until the context ends."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _differences(step: State, reference: State) -> _Differences:
    """Return the difference of each array of a step from the reference, and the differences of its update."""
    largest = max(float(np.abs(v).max()) for n, v in reference.items() if n.startswith("gradient of ") and v.size)
    found: _Differences = {}
    for name, value in step.items():
        if name.startswith("update of "):
            found[name] = float(value)
        elif name in reference and value.size:
            found[name] = _relative(value, reference[name], SMALL * (largest if name.startswith("gradient") else 1))
    return found


def _relative(a: np.ndarray, b: np.ndarray, floor: float = 1e-12) -> float:
    """Return the largest difference relative to the largest value of b; NaN if any value is NaN."""
    return float(np.abs(a - b).max()) / max(float(np.abs(b).max()), floor, 1e-12) if np.size(b) else 0.0


def _real_samples(samples: Float32) -> Float32:
    """Return images of mnist_mini, which have flat areas, if the model takes such images; else the given samples."""
    if samples.shape[1:] != (1, 28, 28):
        return samples
    x = load_dataset("mnist_mini").x_train[:2000].astype(np.float32)
    out: Float32 = (x - x.mean()) / x.std()
    return out


def _batch(graphs: Graphs, samples: Float32, rows: int, rng: np.random.Generator, noise: float = 0.0) -> Batch:
    chosen = rng.integers(0, len(samples), rows)
    targets = one_hot(rng.integers(0, graphs.n_classes, rows), graphs.n_classes)
    x = (samples[chosen] + noise * rng.standard_normal((rows, *graphs.shape))).astype(np.float32)
    return Batch(x, targets, rng.uniform(0.1, 1, rows).astype(np.float32))
