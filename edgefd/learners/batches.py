"""Batches of training rows: softmax and one-hot targets, random batches, passes over all rows, shifted images.

All training is one primitive, `Learner.train`: weighted soft cross-entropy over batches. Private training uses one-hot
targets and distillation uses soft targets, so a device needs only one exported training graph for both. Batches are
drawn here, in numpy. Therefore torch and ONNX Runtime see the same bytes in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64


@dataclass(frozen=True, eq=False)
class Batch:
    """Training rows: x float32 [n, ...], targets float32 [n, C] probabilities, weights float32 [n] >= 0."""

    x: Float32
    targets: Float32
    weights: Float32

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Int64) -> Batch:
        """Return a copy of the rows at the positions `index`."""
        return Batch(self.x[index], self.targets[index], self.weights[index])


@dataclass(frozen=True, eq=False)
class AnchoredBatch(Batch):
    """Training rows whose embeddings are pulled towards anchors. Only learners with embeddings train on them.

    The loss of the rows is that of a `Batch` plus strength / (n E) sum_i pulled_i |f(x_i) - anchor_i|^2, where f(x) is
    the embedding of E values.
    """

    anchors: Float32
    """float32 [n, E]"""
    pulled: Float32
    """float32 [n]: 1 = the row has an anchor, 0 = it has none"""
    strength: float


def softmax(logits: Float32) -> Float32:
    """Return the probabilities of each row of logits, float32 [n, C]: exp(z), normalised.

    >>> softmax(np.array([[0.0, 0.0]], np.float32))
    array([[0.5, 0.5]], dtype=float32)
    """
    e = np.exp(logits - logits.max(1, keepdims=True))
    out: Float32 = e / e.sum(1, keepdims=True)
    return out


def one_hot(y: Int64, n_classes: int) -> Float32:
    """Return labels as one-hot probability rows, float32 [n, C]."""
    out = np.zeros((len(y), n_classes), np.float32)
    out[np.arange(len(y)), y] = 1
    return out


def hard_labels(values: Float32) -> Float32:
    """Return the most likely class of each row as a one-hot row; `values` are logits or probabilities.

    >>> hard_labels(np.array([[0.2, 3.0, -1.0]], np.float32))
    array([[0., 1., 0.]], dtype=float32)
    """
    return one_hot(values.argmax(1), values.shape[1])


def labelled(x: Float32, y: Int64, n_classes: int) -> Batch:
    """Return a batch of labelled rows, all with weight 1."""
    return Batch(x, one_hot(y, n_classes), np.ones(len(y), np.float32))


def draw(batch: Batch, steps: int, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Draw `steps` batches. Every row is used once before any row is used again; each pass has a new order."""
    order = np.empty(0, np.int64)
    size = min(batch_size, len(batch))
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(len(batch))])
        yield batch.rows(order[:size])
        order = order[size:]


def even_passes(batch: Batch, steps: int, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Draw `steps` batches from passes over all rows. Each pass has a new order, and batches of almost the same size.

    A pass over n rows has ceil(n / batch_size) batches, whose sizes differ by at most 1. None is left with a few rows.
    """
    n_batches = -(-len(batch) // batch_size)
    parts: list[Int64] = []
    for _ in range(steps):
        parts = parts or np.array_split(rng.permutation(len(batch)), n_batches)
        yield batch.rows(parts.pop(0))


def passes(batch: Batch, epochs: int, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the batches of `epochs` passes over all rows. Each pass has a new order; its last batch may be short."""
    for _ in range(epochs):
        order = rng.permutation(len(batch))
        for start in range(0, len(order), batch_size):
            yield batch.rows(order[start : start + batch_size])


def mixed(batches: Iterable[Batch], private: Iterator[Batch]) -> Iterator[Batch]:
    """Append the next private batch to each batch."""
    for batch in batches:
        extra = next(private)
        yield Batch(
            np.concatenate([batch.x, extra.x]),
            np.concatenate([batch.targets, extra.targets]),
            np.concatenate([batch.weights, extra.weights]),
        )


def random_shift(batches: Iterable[Batch], pixels: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Shift each image by up to `pixels` along both axes, with its own random shift. Border pixels are repeated."""
    for batch in batches:
        yield Batch(_shift(batch.x, pixels, rng), batch.targets, batch.weights)


def _shift(x: Float32, pixels: int, rng: np.random.Generator) -> Float32:
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    dy, dx = rng.integers(0, 2 * pixels + 1, (2, n))
    return np.ascontiguousarray(windows[np.arange(n), :, dy, dx])


def random_rotation(batches: Iterable[Batch], degrees: float, rng: np.random.Generator) -> Iterator[Batch]:
    """Rotate each image by a random angle of up to `degrees` in both directions. Border pixels are repeated."""
    for batch in batches:
        angles = np.deg2rad(rng.uniform(-degrees, degrees, len(batch)))
        yield Batch(rotated(batch.x, angles), batch.targets, batch.weights)


def rotated(x: Float32, angles: npt.NDArray[np.float64]) -> Float32:
    """Rotate each image of x, float32 [n, C, H, W], by its angle in radians, around its centre.

    A pixel is the bilinear interpolation of four pixels. Border pixels are repeated.

    >>> image = np.array([[[[1, 2], [3, 4]]]], np.float32)
    >>> rotated(image, np.array([np.pi / 2])).round(3)
    array([[[[2., 4.],
             [1., 3.]]]], dtype=float32)
    """
    n, _, height, width = x.shape
    row, column = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    cos, sin = (f(angles)[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    top, down = _between(cos * row + sin * column + (height - 1) / 2, height)
    left, right = _between(cos * column - sin * row + (width - 1) / 2, width)
    each = np.arange(n)[:, None, None]
    out = np.zeros((n, height, width, x.shape[1]), np.float32)
    for dy, by_row in ((0, 1 - down), (1, down)):
        for dx, by_column in ((0, 1 - right), (1, right)):
            corner = x[each, :, np.minimum(top + dy, height - 1), np.minimum(left + dx, width - 1)]
            out += (by_row * by_column)[..., None] * corner
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def _between(position: npt.NDArray[np.float64], size: int) -> tuple[Int64, Float32]:
    """Return the pixel before a position in [0, size - 1], and the distance to it; positions outside are moved in."""
    inside = np.clip(position, 0, size - 1)
    before = np.floor(inside).astype(np.int64)
    return before, (inside - before).astype(np.float32)


def augment(
    batches: Iterator[Batch], max_shift: int, rng: np.random.Generator, max_degrees: float = 0.0
) -> Iterator[Batch]:
    """Rotate the images of each batch at random by up to `max_degrees`, and shift them by up to `max_shift` pixels.

    0 does not change the batches.
    """
    if max_degrees:
        batches = random_rotation(batches, max_degrees, rng)
    return random_shift(batches, max_shift, rng) if max_shift else batches
