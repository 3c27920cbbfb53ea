"""Personal and general quality of clients' models, from counts of their predictions by class.

Personal: on the client's own distribution of classes. General: on the whole test set. In a simulation, both come from
the same predictions, so no client needs a test set of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

QUANTILES = (0.1, 0.5, 0.9)
"""quantiles over clients that a run records"""


def recall(correct: npt.ArrayLike, total: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the recall a_c = correct_c / total_c of each class, NaN for a class without test rows.

    Args:
        correct: [C], number of test rows of each class that are predicted correctly.
        total: [C], number of test rows of each class.
    """
    n = np.asarray(total, np.float64)
    rates: npt.NDArray[np.float64] = np.full(n.shape, np.nan)
    return np.divide(np.asarray(correct, np.float64), n, out=rates, where=n > 0)


def personal_accuracy(correct: npt.ArrayLike, total: npt.ArrayLike, samples: npt.ArrayLike) -> float | None:
    """Return the accuracy on a client's own distribution of classes: sum over c of pi_c a_c.

    The test set is reweighted by the client's class shares pi. A class without test rows is left out of the shares.

    Args:
        correct: [C], number of test rows of each class that the client's model predicts correctly.
        total: [C], number of test rows of each class.
        samples: [C], number of the client's samples of each class; pi_c = samples_c / sum of samples.

    Returns:
        the accuracy; None if the test set has no row of the client's classes.
    """
    shares = np.where(np.asarray(total) > 0, np.asarray(samples, np.float64), 0.0)
    if not shares.sum():
        return None
    return float(shares @ np.nan_to_num(recall(correct, total)) / shares.sum())


def bam(personal: float, general: float) -> float:
    """Return the geometric mean sqrt(personal * general), which is high only if both accuracies are.

    >>> round(bam(1.0, 0.1), 3), bam(0.5, 0.5)
    (0.316, 0.5)
    """
    return float(np.sqrt(personal * general))


def macro_f1(correct: npt.ArrayLike, predicted: npt.ArrayLike, total: npt.ArrayLike) -> float:
    """Return the mean over classes of F1_c = 2 correct_c / (predicted_c + total_c).

    A class that is neither predicted nor in the test set is left out.

    Args:
        correct: [C], number of test rows of each class that are predicted correctly.
        predicted: [C], number of test rows that are predicted as each class.
        total: [C], number of test rows of each class.
    """
    both = np.asarray(predicted, np.float64) + np.asarray(total, np.float64)
    present = both > 0
    return float((2 * np.asarray(correct, np.float64)[present] / both[present]).mean())


def quantiles(values: Sequence[float]) -> list[float] | None:
    """Return the `QUANTILES` of a value over clients, interpolated linearly; None without values."""
    return [float(q) for q in np.quantile(values, QUANTILES)] if values else None
