"""Units of the samples of a federation: their kind and range, and how far samples lie from the shared proxy set.

Nothing here leaves a device: a device compares its own samples with what the manifest of its bundle states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError

MAX_CHANNELS = 256
"""samples with more channels or columns than this have one mean and one standard deviation for all values"""
FEWEST_ROWS = 10
"""with fewer samples than this, their statistics show very different units only"""
_MOST_ROWS = 1024  # rows that are compared; more would cost memory and say no more
_MEAN, _WIDER, _NARROWER = 2.0, 3.0, 8.0
_LONE_WIDER, _LONE_NARROWER = 4.0, 9.6  # for one channel of several: a person with one exercise reaches 3.8 and 9.5
_COLUMN, _COLUMN_NARROWER = 5.0, 64.0
_STEPS = 3.5
_OTHER_UNITS = 64.0
_LISTED = 3


@dataclass(frozen=True)
class Units:
    """Kind and range of the raw samples of a federation, and statistics of its scaled proxy set."""

    dtype: str
    """uint8 or float32"""
    low: float
    """smallest value of the raw training samples from which the bundle was exported"""
    high: float
    """largest value of these samples"""
    mean: tuple[float, ...]
    """mean of the scaled proxy set by channel (images, windows) or column (tables); see `MAX_CHANNELS`"""
    std: tuple[float, ...]
    """standard deviation, in the same order"""
    step: tuple[float, ...] = ()
    """root mean square difference between neighbouring values of a channel, for windows [channels, steps] only"""

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, *self.mean, *self.std, *self.step)
        if self.dtype not in ("uint8", "float32") or not all(map(math.isfinite, numbers)):
            raise ValueError(f"units must be uint8 or float32, with finite numbers, not {self.dtype:.20}")
        if self.low > self.high or len(self.mean) != len(self.std) or min((*self.std, *self.step), default=-1.0) < 0:
            raise ValueError("units need low <= high, and as many std, at least 0, as mean")
        if len(self.step) not in (0, len(self.mean)):
            raise ValueError("units need a step for each channel, or none")


def units_of(raw: npt.NDArray[Any], compared: npt.NDArray[Any]) -> Units:
    """Return the units of raw samples, uint8 or float32, with the statistics of the samples to compare with."""
    statistics = *channel_statistics(compared), channel_steps(compared)
    return Units(str(raw.dtype), float(raw.min()), float(raw.max()), *statistics)


def some_rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return at most 1,024 samples, at equal distances: enough for statistics, with little memory."""
    return x[:: max(1, -(-len(x) // _MOST_ROWS))]


def n_channels(shape: Sequence[int]) -> int:
    """Return the number of channels or columns of a sample for which there are statistics."""
    return shape[0] if shape[0] <= MAX_CHANNELS else 1


def channel_statistics(x: npt.NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel (or column) of samples [n, C, ...]."""
    channels = [values.astype(np.float64) for values in _channels(x)]  # one at a time: float64 takes memory
    return tuple(float(v.mean()) for v in channels), tuple(float(v.std()) for v in channels)


def channel_steps(x: npt.NDArray[Any]) -> tuple[float, ...]:
    """Return the root mean square difference between neighbours in each channel of windows; () for other samples."""
    if x.ndim != 3:
        return ()
    return tuple(float(np.sqrt((np.diff(v.astype(np.float64), axis=-1) ** 2).mean())) for v in _channels(x))


def in_units(x: npt.NDArray[Any], units: Units, source: str) -> npt.NDArray[Any]:
    """Return raw samples in the kind of a federation, uint8 or float32, if they can be its samples.

    Whole numbers from 0 to 255 of any type are the same as uint8. Other numbers are never converted to uint8.

    Raises:
        UserError: for NaN, infinite values or samples of another kind or range; the message begins with `source`.
    """
    if x.dtype.kind not in "uif":
        raise UserError(f"{source}: samples must be {units.dtype} numbers, not {x.dtype}")
    if not x.size:
        raise UserError(f"{source}: there are no samples, only an array of shape {list(x.shape)}")
    finite_values(x, source)
    if units.dtype == "uint8":
        low, high = x.min(), x.max()
        # zeros and ones alone are not pixels of 0 to 255, unless the pixels of the federation are
        binary = high == 1 and units.high > 1
        if x.dtype == np.uint8 and not binary:
            return x
        if low >= 0 and high <= 255 and not binary and (high > 1 or units.high <= 1) and (x == np.floor(x)).all():
            return x.astype(np.uint8)
        raise UserError(_other_kind(x, units, source))
    width = units.high - units.low
    if x.dtype.kind != "f" and (x.min() < units.low - width or x.max() > units.high + width):
        raise UserError(_other_kind(x, units, source))
    with np.errstate(over="ignore"):  # too large values become infinite
        return finite_values(x.astype(np.float32), source)


def _other_kind(x: npt.NDArray[Any], units: Units, source: str) -> str:
    expected = f"{units.dtype} from {units.low:g} to {units.high:g}"
    given = f"{'float' if x.dtype.kind == 'f' else x.dtype} from {x.min():g} to {x.max():g}"
    if units.dtype == "uint8":
        advice = "give whole numbers from 0 to 255, such as the pixels before they were divided by 255"
    else:
        advice = "scale them as the data of the federation were scaled before training"
    return f"{source}: the samples of the federation are {expected}, but these are {given}: {advice}"


def finite_values(x: npt.NDArray[Any], source: str) -> npt.NDArray[Any]:
    """Return samples that hold finite numbers only.

    Raises:
        UserError: if not; the message begins with `source` and names the first sample that holds another value.
    """
    finite = np.isfinite(x)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(x), -1).all(1)))
        raise UserError(
            f"{source}: sample {row} (from 0) holds NaN or infinite values, or values too large for float32"
        )
    return x


def far_from(
    x: npt.NDArray[Any],
    units: Units,
    n_classes: int,
    source: str,
    reference: str = "the proxy set",
    scale: tuple[Sequence[float], Sequence[float]] = ((0.0,), (1.0,)),
) -> str | None:
    """Compare samples with the statistics in `units`, and describe the channels that lie far from them.

    A client may hold a single class. In images and windows, where a channel has many values in each sample, its mean
    still lies within 2 deviations of the reference, and its deviation is at most 3 times as large and at least an
    eighth (4 times and 1 / 9.6 if it is the only one of several channels). In tables, a class can have any value of a
    column: half of the values must lie further from the mean than 5 deviations, or than 2 sqrt(C) deviations, which is
    twice what a class can do that has its share of the reference.
    The values of a window follow each other in time: in another order, such as step after step instead of channel after
    channel, neighbours differ by more than 3.5 times as much.

    Args:
        x: samples [n, ...], scaled if the statistics are those of scaled samples.
        units: of the federation.
        n_classes: number of classes C.
        source: what the samples are; the text begins with it.
        reference: what the statistics describe.
        scale: (mean, std) with which the samples were scaled; the text has the numbers before scaling.

    Returns:
        A sentence that names the channels with both numbers; None if none lies far, or there are few samples.

    Raises:
        UserError: if the samples and those of the federation are float, and most channels differ by a factor above 64:
            these are other units.
    """
    if not len(x):
        return None
    few = len(x) < FEWEST_ROWS
    channels = _channels(some_rows(x))
    table = x.ndim == 2 and len(channels) > 1
    # a column that hardly varies in the reference has no reliable deviation
    floor = 0.05 * float(np.median(units.std) or max(units.std))
    name = "column" if x.ndim == 2 else "channel"
    lines, factors, mild = [], [], []
    for c, values in enumerate(channels):
        mean, std = units.mean[c], max(units.std[c], floor) or 1.0
        distance, wider, narrower = _distances(values, mean, std, table)
        factors.append(max(distance, wider) if few else max(distance, wider, narrower))
        if table:
            far = distance > max(_COLUMN, 2 * math.sqrt(n_classes)) or narrower > _COLUMN_NARROWER
        else:
            far = distance > _MEAN or wider > _WIDER or narrower > _NARROWER
            if far and distance <= _MEAN and wider <= _LONE_WIDER and narrower <= _LONE_NARROWER:
                mild.append(c)
        if far:
            which = f"{name} {c} (from 0)" if len(channels) > 1 else "all values"
            lines.append(f"{which}: {_numbers(values, c, units, scale)}")
    if len(mild) == len(lines) == 1 and len(channels) > 1:  # one exercise of one person can be like this
        lines = []
    lines += _steps(x, units)
    if not lines:
        return None
    more = f" (and {len(lines) - _LISTED} more)" if len(lines) > _LISTED else ""
    text = f"{'; '.join(lines[:_LISTED])}{more}, in brackets those of {reference}"
    if units.dtype == "float32" and np.median(factors) > _OTHER_UNITS:
        raise UserError(f"{source}: the samples are in other units than {reference}: {text}; convert them")
    if few:
        return None
    return f"{source}: the samples lie far from {reference}: {text}; check their units and the order of their {name}s"


def _steps(x: npt.NDArray[Any], units: Units) -> list[str]:
    """Describe the steps of windows whose values are in another order than the reference's; [] for others."""
    own, theirs = np.median(channel_steps(some_rows(x)) or [0.0]), np.median(units.step or [0.0])
    if own <= _STEPS * theirs or theirs == 0:
        return []
    return [f"median step between neighbouring values, after scaling: {own:.3g} [{theirs:.3g}]"]


def _distances(values: npt.NDArray[Any], mean: float, std: float, table: bool) -> tuple[float, float, float]:
    """Return the distance of values from a mean, and how many times wider and narrower than `std` they vary."""
    values = values.astype(np.float64)
    if table:
        distance, wider = float(np.median(np.abs(values - mean))) / std, 0.0
    else:
        distance, wider = abs(float(values.mean()) - mean) / std, float(values.std()) / std
    varies = values.min() < values.max()
    return distance, wider, std / float(values.std()) if varies else 0.0


def _numbers(values: npt.NDArray[Any], c: int, units: Units, scale: tuple[Sequence[float], Sequence[float]]) -> str:
    """Return mean and deviation of the values of a channel, and in brackets those of the reference, before scaling."""
    shift, factor = (numbers[c % len(numbers)] for numbers in scale)
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    own = f"{mean * factor + shift:.4g} and {std * factor:.4g}"
    theirs = f"{units.mean[c] * factor + shift:.4g} and {units.std[c] * factor:.4g}"
    return f"mean and deviation {own} [{theirs}]"


def _channels(x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Return the values of each channel of samples [n, C, ...]; all values if there are too many channels."""
    return [x[:, c] for c in range(x.shape[1])] if x.shape[1] <= MAX_CHANNELS else [x]
