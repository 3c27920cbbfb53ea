"""Scores of membership inference attacks, as functions of model outputs: a higher score means a likelier member.

Throughout, `p` float [n, C] are the target's probabilities for n records and `y` int64 [n] their labels; `others` float
[R, n, C] are those of R reference models that were not trained on the records.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Bool, Float32, Float64, Int64

Floats = npt.NDArray[np.floating]

TINY = 1e-7  # a probability that was sent as float16 may be 0 or 1, whose log odds are not finite
_LEAST_SPREAD = 1e-3  # standard deviation of references that agree to the last digit
_MANY = 16  # with this many models, a standard deviation for each record is better than one for all


def of_label(p: Floats, y: Int64) -> Float64:
    """Return the probability of each record's label, float64 [..., n], within [TINY, 1 - TINY]."""
    of_label = np.take_along_axis(p.astype(np.float64), np.broadcast_to(y[:, None], (*p.shape[:-1], 1)), -1)[..., 0]
    return np.clip(of_label, TINY, 1 - TINY)


def of_label32(p: Floats, y: Int64) -> Float32:
    """Return `of_label` as it is stored, in float32."""
    return of_label(p, y).astype(np.float32)


def loss(p: Floats, y: Int64) -> Float64:
    """Return the log of p_y: members have a smaller loss (Yeom et al. 2018)."""
    out: Float64 = np.log(of_label(p, y))
    return out


def entropy(p: Floats, y: Int64) -> Float64:
    """Return sum_c p_c log p_c: predictions on members are more certain. Needs no label."""
    q = np.clip(p.astype(np.float64), TINY, 1)
    out: Float64 = (q * np.log(q)).sum(-1)
    return out


def modified_entropy(p: Floats, y: Int64) -> Float64:
    """Return (1 - p_y) log p_y + sum_{c != y} p_c log(1 - p_c): certain and correct (Song and Mittal 2021)."""
    q = np.clip(p.astype(np.float64), TINY, 1 - TINY)
    own = of_label(p, y)
    wrong = (q * np.log(1 - q)).sum(-1) - own * np.log(1 - own)
    out: Float64 = (1 - own) * np.log(own) + wrong
    return out


def label_only(p: Floats, y: Int64) -> Float64:
    """Return 1 if the largest probability is the record's label, else 0: the gap attack, which needs labels alone."""
    out: Float64 = (p.argmax(-1) == y).astype(np.float64)
    return out


def confidence(p: Floats, y: Int64) -> Float64:
    """Return LiRA's statistic phi = log(p_y / (1 - p_y)), which is close to normal over models."""
    return log_odds(of_label(p, y))


def log_odds(p: Floats) -> Float64:
    """Return log(p / (1 - p)) of probabilities, which are first clipped to [TINY, 1 - TINY]."""
    own = np.clip(p.astype(np.float64), TINY, 1 - TINY)
    out: Float64 = np.log(own) - np.log1p(-own)
    return out


def lira(p: Floats, y: Int64, others: Floats) -> Float64:
    """Return scores of offline LiRA (Carlini et al. 2022): (phi - mean_out) / sigma_out.

    The normal CDF of a score is Pr[N(mean, sigma) <= phi]. Each record has its own mean over the references. With fewer
    than 16 references, the standard deviation is taken over all records at once (the paper's "fixed variance"), with
    R - 1 degrees of freedom per record.
    """
    phi, null = confidence(p, y), confidence(others, y)
    mean = null.mean(0)
    if len(null) < 2:
        raise ValueError("LiRA needs at least two reference models")
    spread = null.std(0, ddof=1) if len(null) >= _MANY else np.sqrt(null.var(0, ddof=1).mean())
    out: Float64 = (phi - mean) / np.maximum(spread, _LEAST_SPREAD)
    return out


def shadow_lira(phi: Float64, others: Float64, inside: Bool, online: bool = True) -> Float64:
    """Return scores of LiRA from shadows that each saw about half of the records (Carlini et al. 2022, algorithm 1).

        online    log N(phi; mean_in, sigma_in) - log N(phi; mean_out, sigma_out)
        offline   (phi - mean_out) / sigma_out

    Each record has its own means. It has its own standard deviation if every record has at least 16 shadows on that
    side; otherwise all records share one, from their pooled variances (the paper's "fixed variance").

    Args:
        phi: float64 [n], `confidence` of the target's outputs.
        others: float64 [S, n], `confidence` of the shadows' outputs.
        inside: bool [S, n], whether the shadow saw the record.
        online: whether to use the shadows that saw the record; otherwise, only the others are used.

    Raises:
        ValueError: if a record has fewer than two shadows on a side that is used.
    """
    from scipy.stats import norm

    mean_out, sigma_out = _moments(others, ~inside)
    if not online:
        out: Float64 = (phi - mean_out) / sigma_out
        return out
    mean_in, sigma_in = _moments(others, inside)
    ratio: Float64 = norm.logpdf(phi, mean_in, sigma_in) - norm.logpdf(phi, mean_out, sigma_out)
    return ratio


def _moments(others: Float64, used: Bool) -> tuple[Float64, Float64]:
    """Return mean [n] and standard deviation [n] of each record over the shadows that are used."""
    count = used.sum(0)
    if count.min() < 2:
        raise ValueError("LiRA needs two shadows with each record, and two without it")
    mean = np.where(used, others, 0).sum(0) / count
    variance = np.where(used, (others - mean) ** 2, 0).sum(0) / (count - 1)
    if count.min() < _MANY:
        variance = np.full_like(variance, ((count - 1) * variance).sum() / (count - 1).sum())
    return mean, np.maximum(np.sqrt(variance), _LEAST_SPREAD)


class Outputs(NamedTuple):
    """Outputs on labelled records: `p` of the target, labels `y`, and `others` of the references."""

    p: Floats
    y: Int64
    others: Floats


def rmia(records: Outputs, population: Outputs, gamma: float = 1.0, a: float = 0.3) -> Float64:
    """Return scores of RMIA (Zarifzadeh et al. 2024, arXiv 2312.03262): the share of population records z that x beats.

    x beats z if [p(x) / Pr(x)] / [p(z) / Pr(z)] >= gamma, where p is the target's probability of the label and

        Pr(x) = ((1 + a) mean_others p(x) + (1 - a)) / 2      offline: the references have not seen x
        Pr(z) = mean_others p(z)                              half of the references have seen z

    Args:
        records: n records whose membership is tested.
        population: m records that the target was not trained on.
        gamma: factor by which x must have become likelier than z.
        a: slope of the line that estimates the probability by a model that has seen a record from one that has not.
    """
    usual = ((1 + a) * of_label(records.others, records.y).mean(0) + (1 - a)) / 2
    ratio = of_label(records.p, records.y) / usual
    z = population
    ratios_z = np.sort(of_label(z.p, z.y) / of_label(z.others, z.y).mean(0))
    out: Float64 = np.searchsorted(ratios_z, ratio / gamma, side="right") / len(ratios_z)
    return out
