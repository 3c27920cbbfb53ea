"""How edgefd/data/mnist_mini.npz was made: python simulations/make_mnist_mini.py mnist.npz mnist_mini.npz.

600 training and 100 test images of each digit, drawn with seed 0 from MNIST's own training and test part.
"""

import sys

import numpy as np


def balanced(y: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of `each` samples of every class."""
    chosen = [rng.permutation(np.flatnonzero(y == c))[:each] for c in np.unique(y)]
    return np.sort(np.concatenate(chosen))


if __name__ == "__main__":
    source, out = sys.argv[1:]
    rng = np.random.default_rng(0)
    with np.load(source, allow_pickle=False) as z:
        train, test = balanced(z["y_train"], 600, rng), balanced(z["y_test"], 100, rng)
        parts = {"x_train": z["x_train"][train], "y_train": z["y_train"][train]}
        parts |= {"x_test": z["x_test"][test], "y_test": z["y_test"][test]}
    np.savez_compressed(out, **parts)
