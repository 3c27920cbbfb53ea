"""Create a public proxy set of another kind: MNIST images that are turned, darker and noisy.

Run: python simulations/shifted_proxy.py mnist.npz shifted.npz [--seed 0] [--degrees 30] [--contrast 0.6] [--noise 0.2]
Then: edgefd simulate simulations/quickstart.yaml proxy.source=public proxy.path=shifted.npz
The file holds 60 images of each class from the training set of the first file (`x_train`, `y_train`) that are not in
mnist_mini. `--degrees 0 --contrast 1 --noise 0` leaves them as they are. `--noise` is the deviation of Gaussian noise,
in shares of the range of pixels. Other data sets of this form work too, for example Fashion-MNIST, as an unrelated set.
"""

from __future__ import annotations

import argparse

import numpy as np

from edgefd.data.datasets import load_dataset
from edgefd.learners.batches import rotated

PER_CLASS = 60


def main() -> None:
    """Draw the images, change them, and write the file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source")
    arguments.add_argument("target")
    arguments.add_argument("--seed", type=int, default=0)
    for name, default in (("degrees", 30.0), ("contrast", 0.6), ("noise", 0.2)):
        arguments.add_argument(f"--{name}", type=float, default=default)
    chosen = arguments.parse_args()
    rng = np.random.default_rng(chosen.seed)
    with np.load(chosen.source, allow_pickle=False) as z:
        x, y = z["x_train"].reshape(-1, 1, 28, 28), z["y_train"].astype(np.int64)
    used = {row.tobytes() for row in load_dataset("mnist_mini").x_train}
    free = np.array([row.tobytes() not in used for row in x])
    rows = [rng.permutation(np.flatnonzero(free & (y == c)))[:PER_CLASS] for c in np.unique(y)]
    order = rng.permutation(np.concatenate(rows))
    turned = rotated(x[order].astype(np.float32), np.full(len(order), np.deg2rad(chosen.degrees)))
    pixels = turned * chosen.contrast + rng.normal(0, 255 * chosen.noise, turned.shape)
    np.savez_compressed(chosen.target, x=np.clip(np.rint(pixels), 0, 255).astype(np.uint8), y=y[order])


if __name__ == "__main__":
    main()
