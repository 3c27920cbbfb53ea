"""Benchmark of every model: its size, its operations, and its training step, interleaved with steps of the cnn.

Run: python -m benchmarks.models
Images are MNIST's; windows are noise with the shape of the watch data. One thread, batches of 64, Adam. A ratio is the
smallest processor time of a model's step divided by that of the cnn's step: it depends less on the machine than
milliseconds do.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.pairing import take_turns
from edgefd.core.arrays import Float32
from edgefd.data.datasets import load_dataset
from edgefd.export.model_graphs import export_graphs, initial_arrays
from edgefd.learners.batches import labelled
from edgefd.learners.learner import Learner
from edgefd.learners.models import MODELS, WINDOW_MODELS, Shape, build_model
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.learners.torch_learner import TorchLearner

BATCH, CLASSES, OPTIMIZER = 64, 10, "adam"
REPEATS, STEPS, WARM_UP = 15, 3, 2


def samples(name: str) -> Float32:
    """Return a batch of the samples that the model is made for."""
    if name in WINDOW_MODELS:
        return np.random.default_rng(0).standard_normal((BATCH, 6, 100)).astype(np.float32)
    images: Float32 = (load_dataset("mnist_mini").x_train[:BATCH].astype(np.float32) - 33) / 78
    return images


def learners(name: str, shape: Shape) -> dict[str, Learner]:
    """Return a learner of the model in torch and one in ONNX Runtime."""
    model = build_model(name, shape, CLASSES, 0)
    graphs = export_graphs(model, OPTIMIZER, BATCH, shape, CLASSES)
    onnx = OnnxLearner(Sessions(graphs), initial_arrays(model, OPTIMIZER))
    return {"torch": TorchLearner(model, OPTIMIZER), "onnx": onnx}


def size(name: str, shape: Shape) -> tuple[int, float]:
    """Return the number of parameters, and the MFLOP of one sample's forward pass (two operations per multiply-add)."""
    model = build_model(name, shape, CLASSES, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 1e6


def step_times() -> dict[tuple[str, str], float]:
    """Return the milliseconds of processor time per step (minimum of interleaved repetitions), by model and runtime."""
    contenders = {}
    for name in MODELS:
        x = samples(name)
        batches = [labelled(x, np.arange(BATCH) % CLASSES, CLASSES)] * STEPS
        for kind, learner in learners(name, x.shape[1:]).items():
            contenders[name, kind] = partial(learner.train, batches, 0.001)
    seconds = take_turns(contenders, REPEATS, WARM_UP, time.process_time)
    return {key: min(each) / STEPS * 1000 for key, each in seconds.items()}


def main() -> None:
    """Print a Markdown table."""
    torch.set_num_threads(1)
    best = step_times()
    print("| model | parameters | MFLOP | torch step / cnn's | ONNX step / cnn's | ONNX / torch |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in MODELS:
        parameters, mflop = size(name, samples(name).shape[1:])
        torch_ms, onnx_ms = best[name, "torch"], best[name, "onnx"]
        ratios = (torch_ms / best["cnn", "torch"], onnx_ms / best["cnn", "onnx"], onnx_ms / torch_ms)
        print(f"| `{name}` | {parameters:,} | {mflop:.2f} | {' | '.join(f'{r:.2f}' for r in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
