"""Differential privacy accounted by the `dp-accounting` library: how much noise an (epsilon, delta) takes.

Everything here is about whole runs: the composition over all rounds is in the numbers that go in.
"""

from __future__ import annotations

import functools
from typing import Any

from edgefd.core.errors import UserError, require

_LEAST, _TOLERANCE = 0.1, 1e-4  # of noise multipliers


@functools.cache
def gaussian_multiplier(epsilon: float, delta: float) -> float:
    """Noise sigma / Delta with which one Gaussian mechanism of L2 sensitivity Delta is (epsilon, delta)-DP.

    Releases of sensitivity D_1, D_2, ..., each chosen after the last was seen, are together one of Delta^2 = sum D_i^2.
    """
    require("privacy", "dp_accounting")
    from dp_accounting.pld.common import DifferentialPrivacyParameters
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

    wanted = DifferentialPrivacyParameters(epsilon, delta)
    return float(GaussianPrivacyLoss.from_privacy_guarantee(wanted, 1.0).standard_deviation)


@functools.cache
def sgd_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise multiplier of DP-SGD with `steps` batches into which each record comes with probability `rate`.

    Raises:
        UserError: if next to no noise costs less than epsilon.
    """
    if (most := sgd_epsilon(_LEAST, delta, rate, steps)) <= epsilon:
        raise UserError(
            f"defence dp_sgd: epsilon {epsilon:g} is more than noise of {_LEAST:g} times the clipped gradient costs "
            f"({most:.0f}): ask for less, or leave the defence out"
        )
    accounting, _ = _library()
    noise = accounting.calibrate_dp_mechanism(
        _accountant,
        lambda noise: _sgd(noise, rate, steps),
        epsilon,
        delta,
        accounting.LowerEndpointAndGuess(_LEAST, 1.0),
        tol=_TOLERANCE,
    )
    return float(noise) + _TOLERANCE  # on the safe side of it


def sgd_epsilon(noise: float, delta: float, rate: float, steps: int) -> float:
    """The epsilon of DP-SGD at a noise multiplier, by Renyi DP; records are added or removed."""
    accountant = _accountant()
    accountant.compose(_sgd(noise, rate, steps))
    return float(accountant.get_epsilon(delta))


def _sgd(noise: float, rate: float, steps: int) -> Any:
    accounting, _ = _library()
    step = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise))
    return accounting.SelfComposedDpEvent(step, steps)


def _accountant() -> Any:
    """With whole orders: at others the library's series is slow, and fails for large sampling rates."""
    _, rdp = _library()
    return rdp.RdpAccountant([*range(2, 65), 128, 256, 512])


def _library() -> tuple[Any, Any]:
    require("privacy", "dp_accounting")
    import dp_accounting
    from dp_accounting import rdp

    return dp_accounting, rdp
