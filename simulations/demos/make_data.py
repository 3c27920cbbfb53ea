"""Write the data sets of the demos, which all come with Python packages: a table, texts, windows and photographs.

Run: python simulations/demos/make_data.py runs/demos
Needs: the extras sim and images. Nothing is downloaded.

- table.npz: 569 tumours with 30 measurements each, benign or malignant (scikit-learn's breast_cancer).
- text.npz: docstrings of numpy, scipy, scikit-learn, torch and Python's standard library, as they are installed, in
  which the names of the packages are left out; the class is the package. A sample is the TF-IDF of the 500 most
  frequent words of the training texts. The texts, and so the figures, differ a little between versions of the packages.
- windows.npz: **generated, not measured**: motion of 8 imaginary people who do 6 exercises, 3 channels x 64 steps.
- patches.npz: 64x64 pixels in colour from the two photographs that scikit-learn has (China, a flower), upper and lower
  half: 4 classes. Patches overlap within the training set, and none of it overlaps a test patch.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_sample_images
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

Arrays = dict[str, np.ndarray]
PACKAGES = {
    "numpy": ["numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.polynomial.polynomial", "numpy.ma"],
    "scipy": ["scipy.stats", "scipy.signal", "scipy.linalg", "scipy.optimize", "scipy.special", "scipy.sparse"],
    "sklearn": ["sklearn.linear_model", "sklearn.ensemble", "sklearn.metrics", "sklearn.cluster", "sklearn.datasets"],
    "torch": ["torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.distributions", "torch.linalg"],
    "python": ["os", "shutil", "pathlib", "json", "socket", "threading", "logging", "email.message", "http.client"],
}
TEXTS = 250
"""texts of each package at most"""


def table() -> Arrays:
    """Return the table of tumours; a quarter is the test set."""
    data = load_breast_cancer()
    return _split(data.data.astype(np.float32), data.target)


def text() -> Arrays:
    """Return TF-IDF of docstrings, computed from the words of the training texts; a quarter is the test set."""
    texts, labels = [], []
    for label, modules in enumerate(PACKAGES.values()):
        found = sorted({doc for module in modules for doc in _docstrings(module)})
        chosen = np.random.default_rng(0).permutation(len(found))[:TEXTS]
        texts += [found[i] for i in chosen]
        labels += [label] * len(chosen)
    train, test, y_train, y_test = train_test_split(texts, labels, test_size=0.25, stratify=labels, random_state=0)
    words = TfidfVectorizer(max_features=500, stop_words="english", token_pattern="[a-z]{3,}").fit(train)
    x_train, x_test = (words.transform(part).toarray().astype(np.float32) for part in (train, test))
    return {"x_train": x_train, "y_train": np.array(y_train), "x_test": x_test, "y_test": np.array(y_test)}


def _docstrings(module: str) -> Iterator[str]:
    """Yield the beginnings of the docstrings of a module's public functions and classes, without names of packages."""
    names = re.compile("|".join([*PACKAGES, "scikit.learn", "pytorch", r"\bnp\b", "tensors?", "ndarray"]), re.I)
    for name, value in sorted(vars(importlib.import_module(module)).items()):
        if name.startswith("_") or not callable(value):
            continue
        doc = inspect.getdoc(value)
        if doc is not None and len(doc) > 200:
            yield names.sub(" ", doc[:600])


def windows() -> Arrays:
    """Return generated windows: an exercise is a frequency and a direction, which each person does in an own way."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(6, 3))
    parts: dict[str, list[np.ndarray]] = {"x": [], "y": [], "person": []}
    for person in range(10):
        tempo, strength, tilt = rng.uniform(0.85, 1.15), rng.uniform(0.7, 1.3), rng.normal(0, 0.25, (6, 3))
        exercises = np.arange(6) if person >= 8 else (person + np.array([0, 1])) % 6  # 8 and 9 are the test people
        for exercise in exercises:
            n = 60
            phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
            time = np.arange(64)[None, None] / 64
            wave = np.sin(2 * np.pi * (2 + exercise) * tempo * time + phase)
            x = strength * wave * (directions + tilt)[exercise][None, :, None] + rng.normal(0, 0.4, (n, 3, 64))
            parts["x"].append(x.astype(np.float32))
            parts["y"].append(np.full(n, exercise))
            parts["person"].append(np.full(n, person))
    x, y, person = (np.concatenate(parts[key]) for key in ("x", "y", "person"))
    train = person < 8
    names = np.array([f"person {p}" for p in person[train]])
    return {"x_train": x[train], "y_train": y[train], "x_test": x[~train], "y_test": y[~train], "group_train": names}


def patches() -> Arrays:
    """Return patches of two photographs: the left 448 columns are for training, the others for testing."""
    out: dict[str, list[np.ndarray]] = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
    for picture, image in enumerate(load_sample_images().images):
        for half, top in enumerate((0, 213)):
            for part, columns in (("train", range(0, 448 - 63, 32)), ("test", range(448, 640 - 63, 16))):
                rows = range(top, top + 213 - 63, 16)
                cut = [image[r : r + 64, c : c + 64].transpose(2, 0, 1) for r in rows for c in columns]
                out[f"x_{part}"].append(np.stack(cut))
                out[f"y_{part}"].append(np.full(len(cut), 2 * picture + half))
    return {key: np.concatenate(arrays) for key, arrays in out.items()}


def _split(x: np.ndarray, y: np.ndarray) -> Arrays:
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


DEMOS: dict[str, Callable[[], Arrays]] = {"table": table, "text": text, "windows": windows, "patches": patches}


def main() -> None:
    """Write one npz file for each demo."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    folder = arguments.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in DEMOS.items():
        arrays = make()
        np.savez_compressed(folder / f"{name}.npz", **arrays)
        print(f"{folder / name}.npz: {len(arrays['y_train'])} + {len(arrays['y_test'])} samples")


if __name__ == "__main__":
    main()
