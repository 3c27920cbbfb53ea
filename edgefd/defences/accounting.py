"""Accounting of differential privacy: the noise that an (epsilon, delta) requires.

All functions are about whole runs: their arguments include the composition over all rounds. Those about DP-SGD use the
library `dp-accounting`; devices do not have it, and do not need it for the Gaussian mechanism.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from edgefd.core.errors import UserError, require

_MIN_MULTIPLIER, _TOLERANCE = 0.1, 1e-4  # the smallest noise multiplier that is used, and their precision


@functools.cache
def gaussian_multiplier(epsilon: float, delta: float) -> float:
    """Return sigma / Delta for which a Gaussian mechanism of L2 sensitivity Delta is (epsilon, delta)-DP.

    Several releases with sensitivities D_1, D_2, ..., each of which may depend on the earlier ones, count as one
    release with Delta^2 = sum D_i^2. The result is the smallest such number, rounded up in its tenth digit (Balle and
    Wang, arXiv 1805.06530, theorem 8).
    """
    too_small, enough = 0.0, 1.0
    while gaussian_delta(epsilon, enough) > delta:
        too_small, enough = enough, 2 * enough
    while enough - too_small > 1e-11 * enough:
        middle = (too_small + enough) / 2
        if gaussian_delta(epsilon, middle) > delta:
            too_small = middle
        else:
            enough = middle
    return enough * (1 + 1e-9)


def gaussian_delta(epsilon: float, multiplier: float) -> float:
    """Return Phi(a) - exp(epsilon) Phi(-b), the delta of a Gaussian mechanism with sigma = `multiplier` * Delta.

    a = 1 / (2 m) - epsilon m and b = 1 / (2 m) + epsilon m, with m = `multiplier`. The second term is computed as
    exp(-a^2 / 2) exp(b^2 / 2) Phi(-b), which does not overflow.
    """
    a, b = 0.5 / multiplier - epsilon * multiplier, 0.5 / multiplier + epsilon * multiplier
    return math.erfc(-a / math.sqrt(2)) / 2 - math.exp(-a * a / 2) * _scaled_tail(b)


def _scaled_tail(b: float) -> float:
    """Return exp(b^2 / 2) Phi(-b) for b > 0, for large b by its asymptotic series, whose error is below 1e-8."""
    if b < 20:
        return math.exp(b * b / 2) * math.erfc(b / math.sqrt(2)) / 2
    return (1 - b**-2 + 3 * b**-4 - 15 * b**-6) / (b * math.sqrt(2 * math.pi))


@functools.cache
def sgd_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Return the noise multiplier of DP-SGD with `steps` batches, each with every record with probability `rate`.

    Raises:
        UserError: if almost no noise already guarantees epsilon.
    """
    if (largest := sgd_epsilon(_MIN_MULTIPLIER, delta, rate, steps)) <= epsilon:
        raise UserError(
            f"defence dp_sgd: epsilon {epsilon:g} needs almost no noise (noise of {_MIN_MULTIPLIER:g} times the "
            f"clipped gradient gives {largest:.0f}): set a smaller epsilon, or remove the defence"
        )
    accounting, _ = _library()
    noise = accounting.calibrate_dp_mechanism(
        _accountant,
        lambda noise: _sgd(noise, rate, steps),
        epsilon,
        delta,
        accounting.LowerEndpointAndGuess(_MIN_MULTIPLIER, 1.0),
        tol=_TOLERANCE,
    )
    return float(noise) + _TOLERANCE  # rounded up, so that the guarantee holds


def sgd_epsilon(noise: float, delta: float, rate: float, steps: int) -> float:
    """Return the epsilon of DP-SGD with a noise multiplier, by Renyi DP, for adding or removing one record."""
    accountant = _accountant()
    accountant.compose(_sgd(noise, rate, steps))
    return float(accountant.get_epsilon(delta))


def _sgd(noise: float, rate: float, steps: int) -> Any:
    accounting, _ = _library()
    step = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise))
    return accounting.SelfComposedDpEvent(step, steps)


def _accountant() -> Any:
    """Return an accountant with whole orders.

    For other orders, the series of the library is slow, and fails for large sampling rates.
    """
    _, rdp = _library()
    return rdp.RdpAccountant([*range(2, 65), 128, 256, 512])


def _library() -> tuple[Any, Any]:
    require("privacy", "dp_accounting")
    import dp_accounting
    from dp_accounting import rdp

    return dp_accounting, rdp
