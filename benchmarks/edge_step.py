"""Benchmark of a training step in ONNX Runtime against torch on the same model, and of the footprint of a device.

python benchmarks/edge_step.py --model cnn --optimizer adam   # ms per step, one thread, batches of 64, interleaved
python benchmarks/edge_step.py --footprint BUNDLE             # time and memory of a device, without torch
python benchmarks/edge_step.py --stock flower --model cnn     # the same with torch and Flower

`--stock torch` measures torch without Flower. `--stock` supports the models mlp and cnn.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from edgefd.learners.batches import Batch

BATCH, SHAPE, CLASSES = 64, (1, 28, 28), 10
REPEATS, STEPS, LR = 25, 5, 0.001


def compare(name: str, optimizer: str) -> None:
    """Print each contender's milliseconds per step (minimum, median; interleaved), and ONNX Runtime's ratio to it."""
    import torch

    from edgefd.data.datasets import load_dataset
    from edgefd.export.model_graphs import export_graphs, initial_arrays
    from edgefd.learners.batches import labelled
    from edgefd.learners.models import build_model
    from edgefd.learners.onnx_learner import OnnxLearner, Sessions
    from edgefd.learners.torch_learner import TorchLearner

    torch.set_num_threads(1)
    data = load_dataset("mnist_mini")
    x = ((data.x_train[:BATCH].astype(np.float32) - 33) / 78).reshape(BATCH, *SHAPE)
    batches = [labelled(x, data.y_train[:BATCH], CLASSES)] * STEPS
    model = build_model(name, SHAPE, CLASSES, 0)
    graphs = export_graphs(model, optimizer, BATCH, SHAPE, CLASSES)
    onnx = OnnxLearner(Sessions(graphs), initial_arrays(model, optimizer))
    ours = TorchLearner(build_model(name, SHAPE, CLASSES, 0), optimizer)
    contenders: dict[str, Callable[[], object]] = {
        "onnxruntime": lambda: onnx.train(batches, LR),
        "torch eager": plain_torch(name, optimizer, batches[0], torch.contiguous_format),
        "torch channels_last": plain_torch(name, optimizer, batches[0], torch.channels_last),
        "edgefd's torch learner": lambda: ours.train(batches, LR),
    }
    times: dict[str, list[float]] = {key: [] for key in contenders}
    for repeat in range(REPEATS + 2):
        for key, run in contenders.items():
            began = time.process_time()
            run()
            if repeat >= 2:
                times[key].append((time.process_time() - began) / STEPS * 1000)
    for key, milliseconds in times.items():
        each = np.array(times["onnxruntime"]) / np.array(milliseconds)
        low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
        print(
            f"{name:9} {optimizer:4} {key:22} min {min(milliseconds):6.2f} median {np.median(milliseconds):6.2f} ms,"
            f" ratio {middle:.2f} [{low:.2f}, {high:.2f}]"
        )


def plain_torch(name: str, optimizer: str, batch: Batch, order: torch.memory_format) -> Callable[[], None]:
    """Return a function that runs `STEPS` steps with torch's own pooling, loss, autograd and fused optimizer."""
    import torch
    import torch.nn.functional as F

    from edgefd.learners import models

    model = models.build_model(name, SHAPE, CLASSES, 0).to(memory_format=order)  # type: ignore[call-overload]
    parameters = list(model.parameters())
    step = (
        torch.optim.Adam(parameters, LR, fused=True)
        if optimizer == "adam"
        else torch.optim.SGD(parameters, LR, 0.9, fused=True)
    )
    x, targets, weights = (torch.from_numpy(v) for v in (batch.x, batch.targets, batch.weights))
    x = x.contiguous(memory_format=order)

    def run() -> None:
        original, models.pool_relu = models.pool_relu, lambda x: F.relu(F.max_pool2d(x, 2))
        for _ in range(STEPS):
            losses = F.cross_entropy(model(x), targets, reduction="none")
            loss = (losses * weights).sum() / weights.sum()
            step.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            step.step()
        models.pool_relu = original

    return run


def footprint(bundle: Path) -> None:
    """Print start time and peak memory of three rounds' training and prediction (2,000 private, 1,000 proxy rows)."""
    began = time.perf_counter()
    from edgefd.learners.batches import Batch, draw, labelled, mixed, passes, softmax
    from edgefd.learners.onnx_learner import OnnxLearner, Sessions
    from edgefd.wire.bundle_reader import read_bundle

    content = read_bundle(bundle)
    manifest = content.manifest
    learner = OnnxLearner(Sessions(content.graphs), content.init)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, *manifest.shape), np.float32)
    private = labelled(x, rng.integers(0, manifest.n_classes, 2000), manifest.n_classes)
    proxy = rng.standard_normal((1000, *manifest.shape), np.float32)
    learner.train(draw(private, 1, manifest.batch, rng), 0.001)
    print(f"start to the end of the first step: {time.perf_counter() - began:.2f} s")
    for _ in range(3):
        teacher = Batch(proxy, softmax(learner.predict_logits(proxy)), np.ones(1000, np.float32))
        size = manifest.batch - 16
        learner.train(mixed(passes(teacher, 1, size, rng), draw(private, -(-1000 // size), 16, rng)), 0.001)
        learner.train(draw(private, 32, manifest.batch, rng), 0.001)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert "torch" not in sys.modules
    print(f"peak memory: {peak:.0f} MB")


def stock(name: str, flower: bool) -> None:
    """Print the same figures for three rounds in torch, with Flower's client library imported too if `flower`."""
    began = time.perf_counter()
    import torch
    import torch.nn.functional as F
    from torch import nn

    if flower:
        import flwr.client
        import flwr.clientapp

        assert flwr.client
        assert flwr.clientapp
    torch.set_num_threads(1)
    layers: list[nn.Module] = [nn.Conv2d(1, 10, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(10, 20, 5), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Linear(50, 10)]
    if name == "mlp":
        layers = [nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), LR)
    x, y, proxy = torch.randn(2000, *SHAPE), torch.randint(0, CLASSES, (2000,)), torch.randn(1000, *SHAPE)

    def train(rows: torch.Tensor, targets: torch.Tensor) -> None:
        for x_batch, y_batch in zip(rows.split(BATCH), targets.split(BATCH), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x_batch), y_batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    train(x[:BATCH], y[:BATCH])
    print(f"start to the end of the first step: {time.perf_counter() - began:.2f} s")
    for _ in range(3):
        with torch.no_grad():
            teacher = torch.cat([model(x_batch).softmax(1) for x_batch in proxy.split(256)])
        train(proxy, teacher)
        train(x, y)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--optimizer", default="adam", choices=["sgd", "adam"])
    parser.add_argument("--footprint", type=Path, metavar="BUNDLE")
    parser.add_argument("--stock", choices=["torch", "flower"])
    args = parser.parse_args()
    if args.stock:
        stock(args.model, args.stock == "flower")
    elif args.footprint:
        footprint(args.footprint)
    else:
        compare(args.model, args.optimizer)
