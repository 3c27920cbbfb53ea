"""Create edgefd/data/mnist_mini.npz from MNIST.

Run: python simulations/make_mnist_mini.py mnist.npz mnist_mini.npz
The file holds 600 training and 100 test images of each digit, drawn with seed 0 from MNIST's training and test sets.
"""

import sys

import numpy as np


def balanced(y: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sorted indices of `per_class` random samples of every class."""
    chosen = [rng.permutation(np.flatnonzero(y == c))[:per_class] for c in np.unique(y)]
    return np.sort(np.concatenate(chosen))


if __name__ == "__main__":
    source, target = sys.argv[1:]
    rng = np.random.default_rng(0)
    with np.load(source, allow_pickle=False) as z:
        train, test = balanced(z["y_train"], 600, rng), balanced(z["y_test"], 100, rng)
        parts = {"x_train": z["x_train"][train], "y_train": z["y_train"][train]}
        parts |= {"x_test": z["x_test"][test], "y_test": z["y_test"][test]}
    np.savez_compressed(target, **parts)
