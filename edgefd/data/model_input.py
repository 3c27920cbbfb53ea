"""Raw samples as the input of a model: checked against the units of its federation, and scaled as in its training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.federation.clients import Scale
from edgefd.federation.units import Units, far_from, finite_values, in_units

Extract = Callable[[bytes, npt.NDArray[Any]], Float32]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputFormat:
    """Format of the raw samples that a model takes, and the way to the numbers that it was trained on."""

    sample_shape: tuple[int, ...]
    """shape of a raw sample"""
    shape: tuple[int, ...]
    """shape of the input of the model; with an extractor, that of its features"""
    units: Units
    """kind and range of raw samples, and statistics of the scaled proxy set"""
    scale: tuple[tuple[float, ...], tuple[float, ...]]
    """(mean, std) of the scale, see `edgefd.federation.clients.Scale`"""
    n_classes: int
    """number of classes C"""


def model_input(
    x: npt.NDArray[Any], expected: InputFormat, extractor: bytes | None, source: str, extract: Extract
) -> Float32:
    """Check raw samples against the units of a federation, and convert them to the input of its models.

    An extractor, if there is one, computes features. Then the scale is applied. A log line warns if the result lies far
    from the proxy set.

    Args:
        x: raw samples [n, ...].
        expected: the format of the samples.
        extractor: graph that computes features; None if the model takes samples.
        source: the beginning of errors.
        extract: computes features [n, d] with a graph.

    Raises:
        UserError: for samples of another shape, kind or range, or that are not finite; the message begins with
            `source`. Also if the output of the extractor does not have the shape of the model's input.
    """
    if x.shape[1:] != expected.sample_shape or len(x) == 0:
        shape = list(expected.sample_shape)
        raise UserError(f"{source}: expected an array [n, ...] of samples of shape {shape}, not of {list(x.shape)}")
    x = in_units(x, expected.units, source)
    if extractor is not None:
        x = extract(extractor, x)
        if x.shape[1:] != expected.shape:
            raise UserError(
                f"the extractor gives {list(x.shape[1:])} features, but the model takes {list(expected.shape)}"
            )
    scaled_x = finite_values(Scale(*expected.scale)(x), source)
    warning = far_from(scaled_x, expected.units, expected.n_classes, source, scale=expected.scale)
    if warning is not None:
        _LOG.warning("%s", warning)
    return scaled_x
