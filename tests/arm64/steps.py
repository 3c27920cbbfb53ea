"""Train some steps on a bundle's own proxy rows, and save the state: python steps.py BUNDLE STEPS OUT.npz."""

import sys
from pathlib import Path

import numpy as np

from edgefd.learners.batches import labelled
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.wire.bundle_reader import read_bundle

if __name__ == "__main__":
    bundle = read_bundle(Path(sys.argv[1]))
    learner = OnnxLearner(Sessions(bundle.graphs), bundle.init)
    size, classes = bundle.manifest.batch, bundle.manifest.n_classes
    rows = np.arange(int(sys.argv[2]) * size).reshape(-1, size) % len(bundle.proxy)
    batches = [labelled(bundle.proxy[ids], ids % classes, classes) for ids in rows]
    learner.train(batches, 0.001)
    np.savez(sys.argv[3], **learner.state())
