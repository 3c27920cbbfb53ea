"""One training step in ONNX Runtime against torch on the same model, and the footprint of a device.

python benchmarks/edge_step.py --model cnn --optimizer adam     # ms a step, 1 thread, batch 64, interleaved
python benchmarks/edge_step.py --footprint BUNDLE               # in a process of its own, without torch
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BATCH, SHAPE, CLASSES = 64, (1, 28, 28), 10
REPEATS, STEPS = 15, 3


def compare(name: str, optimizer: str) -> None:
    """Print milliseconds a step: minimum and median of interleaved repetitions."""
    import torch
    from edgefd_client.onnx_learner import OnnxLearner, Sessions

    from edgefd import torch_learner
    from edgefd.data.datasets import load_dataset
    from edgefd.export.bundle import export_graphs, initial_arrays
    from edgefd.learner import labelled
    from edgefd.models import build_model
    from edgefd.torch_learner import TorchLearner

    torch.set_num_threads(1)
    data = load_dataset("mnist_mini")
    x = (data.x_train[:BATCH].astype(np.float32) - 33) / 78
    batches = [labelled(x, data.y_train[:BATCH], CLASSES)] * STEPS

    model = build_model(name, SHAPE, CLASSES, 0)
    graphs = export_graphs(model, optimizer, BATCH, SHAPE, CLASSES)
    onnx = OnnxLearner(Sessions(graphs), initial_arrays(model, optimizer))
    last = TorchLearner(build_model(name, SHAPE, CLASSES, 0), optimizer)
    eager = TorchLearner(build_model(name, SHAPE, CLASSES, 0), optimizer)
    eager.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    eager.optimizer = torch_learner._optimizer(optimizer, eager.model)
    to_tensor = torch_learner._tensor

    def contiguous() -> None:
        torch_learner._tensor = torch.from_numpy
        eager.train(batches, 0.001)
        torch_learner._tensor = to_tensor

    contenders: dict[str, Callable[[], object]] = {
        "onnxruntime": lambda: onnx.train(batches, 0.001),
        "torch eager": contiguous,
        "torch channels_last": lambda: last.train(batches, 0.001),
    }
    times: dict[str, list[float]] = {key: [] for key in contenders}
    for repeat in range(REPEATS + 2):
        for key, run in contenders.items():
            began = time.process_time()
            run()
            if repeat >= 2:
                times[key].append((time.process_time() - began) / STEPS * 1000)
    for key, found in times.items():
        ratio = min(times["onnxruntime"]) / min(found)
        print(f"{name} {optimizer} {key}: min {min(found):.2f} median {np.median(found):.2f} ms, ratio {ratio:.2f}")


def footprint(bundle: Path) -> None:
    """Three rounds' training and prediction on 2,000 private and 1,000 proxy samples: seconds and peak memory."""
    began = time.perf_counter()
    from edgefd_client.bundle import read_bundle
    from edgefd_client.onnx_learner import OnnxLearner, Sessions

    from edgefd.learner import Lesson, draw, labelled, mixed, passes, softmax

    read = read_bundle(bundle)
    learner = OnnxLearner(Sessions(read.graphs), read.init)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, *read.manifest.shape), np.float32)
    private = labelled(x, rng.integers(0, read.manifest.n_classes, 2000), read.manifest.n_classes)
    proxy = rng.standard_normal((1000, *read.manifest.shape), np.float32)
    learner.train(draw(private, 1, read.manifest.batch, rng), 0.001)
    print(f"start to the end of the first step: {time.perf_counter() - began:.2f} s")
    for _ in range(3):
        teacher = Lesson(proxy, softmax(learner.predict_logits(proxy)), np.ones(1000, np.float32))
        size = read.manifest.batch - 16
        learner.train(mixed(passes(teacher, 1, size, rng), draw(private, -(-1000 // size), 16, rng)), 0.001)
        learner.train(draw(private, 32, read.manifest.batch, rng), 0.001)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert "torch" not in sys.modules
    print(f"peak memory: {peak:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--optimizer", default="adam", choices=["sgd", "adam"])
    parser.add_argument("--footprint", type=Path, metavar="BUNDLE")
    args = parser.parse_args()
    footprint(args.footprint) if args.footprint else compare(args.model, args.optimizer)
