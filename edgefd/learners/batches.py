"""`Learner`: what the method needs of a model, whatever framework or runtime it runs on.

All training is one primitive, `train`: weighted soft cross-entropy over batches. The private phase sends one-hot
targets, the distillation phase soft ones, and one exported graph serves both on a device. How batches are drawn is
decided here, in numpy, once: so torch and ONNX Runtime see the same bytes in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Int64


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows to learn from: x float32 [n, ...], targets float32 [n, C] probabilities, weights float32 [n] >= 0."""

    x: Float32
    targets: Float32
    weights: Float32

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Int64) -> Batch:
        """The rows of that index, copied."""
        return Batch(self.x[index], self.targets[index], self.weights[index])


def softmax(logits: Float32) -> Float32:
    """Probabilities by row, float32 [n, C]: exp(z), normalised.

    >>> softmax(np.array([[0.0, 0.0]], np.float32))
    array([[0.5, 0.5]], dtype=float32)
    """
    e = np.exp(logits - logits.max(1, keepdims=True))
    out: Float32 = e / e.sum(1, keepdims=True)
    return out


def one_hot(y: Int64, n_classes: int) -> Float32:
    """Labels as probability rows, float32 [n, C]."""
    out = np.zeros((len(y), n_classes), np.float32)
    out[np.arange(len(y)), y] = 1
    return out


def labelled(x: Float32, y: Int64, n_classes: int) -> Batch:
    """A lesson from labelled rows, all of weight 1."""
    return Batch(x, one_hot(y, n_classes), np.ones(len(y), np.float32))


def draw(batch: Batch, steps: int, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """`steps` batches; every row once before any row again, reshuffled after each pass."""
    order = np.empty(0, np.int64)
    size = min(batch_size, len(batch))
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(len(batch))])
        yield batch.rows(order[:size])
        order = order[size:]


def passes(batch: Batch, epochs: int, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of `epochs` passes over all rows, shuffled each time; the last batch of a pass may be short."""
    for _ in range(epochs):
        order = rng.permutation(len(batch))
        for start in range(0, len(order), batch_size):
            yield batch.rows(order[start : start + batch_size])


def mixed(batches: Iterable[Batch], private: Iterator[Batch]) -> Iterator[Batch]:
    """Each batch with the next private batch appended."""
    for batch in batches:
        own = next(private)
        yield Batch(
            np.concatenate([batch.x, own.x]),
            np.concatenate([batch.targets, own.targets]),
            np.concatenate([batch.weights, own.weights]),
        )


def random_shift(batches: Iterable[Batch], pixels: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Each batch of images moved by up to `pixels` in either direction, one shift a row; border pixels are repeated."""
    for batch in batches:
        yield Batch(_shift(batch.x, pixels, rng), batch.targets, batch.weights)


def _shift(x: Float32, pixels: int, rng: np.random.Generator) -> Float32:
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    dy, dx = rng.integers(0, 2 * pixels + 1, (2, n))
    return np.ascontiguousarray(windows[np.arange(n), :, dy, dx])


def augment(batches: Iterator[Batch], max_shift: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Shift the images of each batch at random by up to `max_shift` pixels; 0 leaves the batches unchanged."""
    return random_shift(batches, max_shift, rng) if max_shift else batches
