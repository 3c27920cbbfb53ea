"""Comparison of exported graphs with torch: the logits, and one training step from a common state on real data."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.data.datasets import load_dataset
from edgefd.learners.batches import Batch, one_hot
from edgefd.learners.graphs import Graphs, State
from edgefd.learners.optimizer import MOMENTUM
from edgefd.learners.session import open_session, session_options
from edgefd.learners.torch_learner import TorchLearner, one_thread

TOLERANCE = 1e-5  # of parameters after one step, relative to the largest value of each tensor
LR = 0.003
_WARM_UP = 8  # steps in torch before the comparison: the first steps of Adam divide rounding errors by themselves


def verify(graphs: Graphs, model: nn.Module, optimizer: str, samples: Float32) -> dict[str, float]:
    """Compare exported graphs with torch.

    Returns:
        The differences by name. `step`, `loss` and `logits` compare the graphs with torch in float32. `step_float64`
        compares the graphs with torch in float64, on samples with noise: such samples have no equal numbers between
        which rounding could decide. `torch_float64` is the larger difference of torch in float32 from torch in float64,
        on samples with noise and without: on some processors, its rounding decides whether a unit is active.

    Raises:
        UserError: if they differ by more than `TOLERANCE`, unless torch itself differs from float64 as much.
    """
    with one_thread():
        return _compare(graphs, model, optimizer, samples)


def _compare(graphs: Graphs, model: nn.Module, optimizer: str, samples: Float32) -> dict[str, float]:
    rng = np.random.default_rng(0)
    samples = _real_samples(samples)
    learner = TorchLearner(copy.deepcopy(model), optimizer)
    for _ in range(_WARM_UP):
        learner.train([_batch(graphs, samples, rng)], LR)
    shared = learner.state()
    parameters = {name: shared[name] for name in graphs.state if name.startswith("model/")}
    logits = _run(graphs.logits, ["logits"], parameters | {"x": samples[:37]})[0]
    errors = {"logits": float(np.abs(logits - learner.predict_logits(samples[:37])).max())}
    batch = _batch(graphs, samples, rng)
    new, loss = run_step(graphs, shared, batch, LR)
    errors["loss"] = abs(loss - learner.train([batch], LR))
    errors["step"] = distance(new, learner.state())
    of_torch = distance(learner.state(), _float64_step(model, optimizer, shared, batch))

    x = (batch.x + 0.1 * rng.standard_normal(batch.x.shape)).astype(np.float32)
    noisy = Batch(x, batch.targets, batch.weights)
    control = _float64_step(model, optimizer, shared, noisy)
    learner.load_state(shared)
    learner.train([noisy], LR)
    errors["step_float64"] = distance(run_step(graphs, shared, noisy, LR)[0], control)
    errors["torch_float64"] = max(of_torch, distance(learner.state(), control))

    allowed = max(TOLERANCE, 3 * errors["torch_float64"])
    for name in ("step", "step_float64"):
        if not errors[name] <= allowed:
            raise UserError(
                f"the exported training step disagrees with torch: {name} is {errors[name]:.1e}, but at most "
                f"{allowed:.1e} is allowed"
            )
    if not errors["logits"] <= 1e-4:
        raise UserError(f"the exported model disagrees with torch: logits differ by {errors['logits']:.1e}")
    return errors


def run_step(graphs: Graphs, state: State, batch: Batch, lr: float) -> tuple[State, float]:
    """Run one step of the exported graph. Return the new state and the loss."""
    missing = graphs.batch - len(batch)
    numbers = {"lr": lr, **graphs.constants}
    feed = {
        **{name: state[name] for name in graphs.state},
        "x": np.pad(batch.x, ((0, missing), *((0, 0) for _ in graphs.shape))),
        "targets": np.pad(batch.targets, ((0, missing), (0, 0))),
        "weights": np.pad(batch.weights, (0, missing)),
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
    }
    *new, loss = _run(graphs.step, [*(f"new/{name}" for name in graphs.state), "loss"], feed)
    return dict(zip(graphs.state, new, strict=True)), float(loss)


def distance(a: State, b: State) -> float:
    """Return the largest difference of any parameter, relative to the largest value of its tensor.

    The result is NaN if any value is NaN.
    """
    names = [name for name in b if name.startswith("model/") and name in a]
    return float(np.max([np.abs(a[n] - b[n]).max() / max(float(np.abs(b[n]).max()), 1e-12) for n in names]))


def _real_samples(samples: Float32) -> Float32:
    """Return images of mnist_mini, which have flat areas, if the model takes such images; else the given samples."""
    if samples.shape[1:] != (1, 28, 28):
        return samples
    x = load_dataset("mnist_mini").x_train[:2000].astype(np.float32)
    out: Float32 = (x - x.mean()) / x.std()
    return out


def _batch(graphs: Graphs, samples: Float32, rng: np.random.Generator) -> Batch:
    rows = rng.integers(0, len(samples), graphs.batch)
    targets = one_hot(rng.integers(0, graphs.n_classes, graphs.batch), graphs.n_classes)
    return Batch(samples[rows], targets, rng.uniform(0, 1, graphs.batch).astype(np.float32))


def _float64_step(model: nn.Module, optimizer: str, shared: State, batch: Batch) -> State:
    """Return the parameters after the same step with the optimizers and autograd of torch, in float64."""
    model = copy.deepcopy(model).double()
    model.load_state_dict(
        {k.removeprefix("model/"): torch.from_numpy(v) for k, v in shared.items() if k.startswith("model/")}
    )
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    optim = torch.optim.Adam(parameters, LR) if optimizer == "adam" else torch.optim.SGD(parameters, LR, MOMENTUM)
    for name, p in zip(names, parameters, strict=True):
        slots = {k.split("/")[1]: v for k, v in shared.items() if k.startswith("optimizer/") and k.endswith(f"/{name}")}
        optim.state[p] = {slot: torch.from_numpy(v.astype(np.float64)) for slot, v in slots.items()}
        if optimizer == "adam":
            optim.state[p]["step"] = torch.tensor(float(shared["optimizer/step"]))
    x, targets, weights = (torch.from_numpy(v.astype(np.float64)) for v in (batch.x, batch.targets, batch.weights))
    each = F.cross_entropy(model(x), targets, reduction="none")
    ((each * weights).sum() / weights.sum()).backward()  # type: ignore[no-untyped-call]
    optim.step()
    return {f"model/{name}": p.detach().numpy() for name, p in zip(names, parameters, strict=True)}


def _run(model: bytes, outputs: list[str], feed: State) -> list[np.ndarray]:
    out: list[np.ndarray] = open_session(model, session_options(1)).run(outputs, feed)
    return out
