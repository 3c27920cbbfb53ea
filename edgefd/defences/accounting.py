"""Accounting of differential privacy with the library `dp-accounting`: the noise that an (epsilon, delta) requires.

All functions are about whole runs: their arguments include the composition over all rounds.
"""

from __future__ import annotations

import functools
from typing import Any

from edgefd.core.errors import UserError, require

_MIN_MULTIPLIER, _TOLERANCE = 0.1, 1e-4  # the smallest noise multiplier that is used, and their precision


@functools.cache
def gaussian_multiplier(epsilon: float, delta: float) -> float:
    """Return sigma / Delta for which a Gaussian mechanism of L2 sensitivity Delta is (epsilon, delta)-DP.

    Several releases with sensitivities D_1, D_2, ..., each of which may depend on the earlier ones, count as one
    release with Delta^2 = sum D_i^2.
    """
    require("privacy", "dp_accounting")
    from dp_accounting.pld.common import DifferentialPrivacyParameters
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

    budget = DifferentialPrivacyParameters(epsilon, delta)
    return float(GaussianPrivacyLoss.from_privacy_guarantee(budget, 1.0).standard_deviation)


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
