"""What a histogram of scores per class says about a model: AUC with its uncertainty, log loss, accuracy."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.errors import ProtocolError

Diagnosis = Literal[
    "ok", "no patients", "no positive patients", "no negative patients", "one patient in a class", "separated", "no spread"
]
CONFIDENCE: Final = 0.95
Z: Final = float(norm.isf((1 - CONFIDENCE) / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model on the held-out patients. What cannot be computed is None, and `diagnosis` says why.

    | diagnosis | auc | auc_standard_error, auc_interval | log_loss, accuracy |
    |---|---|---|---|
    | ok | yes | yes | yes |
    | separated: AUC is exactly 0 or 1; no spread: all scores in one bin; DeLong's variance is zero | yes | None | yes |
    | one patient in a class | yes | None | yes |
    | no positive patients, no negative patients | None | None | yes |
    | no patients | None | None | None |
    """

    diagnosis: Diagnosis
    n_positive: int
    n_negative: int
    auc: float | None
    auc_standard_error: float | None
    auc_interval: tuple[float, float] | None  # 95 %
    log_loss: float | None  # nats, at bin centres
    accuracy: float | None  # at 0.5


def from_histogram(counts: NDArray[np.int64]) -> Evaluation:
    """Evaluate a model from the counts of (class, score bin), shape (2, bins), class 1 positive, equal bins over [0, 1].

    Patients of one bin are ties. AUC is the Mann-Whitney statistic of the binned scores; standard error by DeLong; the interval
    is symmetric on the logit scale. Raises ProtocolError on another shape, a negative count, or a dtype that is not integer.
    Source: DeLong, DeLong, Clarke-Pearson 1988; Pepe 2003, 5.2.4 (interval).
    """
    if counts.ndim != 2 or counts.shape[0] != 2 or counts.shape[1] < 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ProtocolError("A histogram of scores has a wrong shape or a negative count.", action="Exclude that round.")
    negative, positive = counts[0].astype(np.float64), counts[1].astype(np.float64)
    n_negative, n_positive = int(counts[0].sum()), int(counts[1].sum())
    log_loss, accuracy = _calibration(negative, positive)
    auc, error, interval = None, None, None
    diagnosis: Diagnosis = "ok"
    if n_positive + n_negative == 0:
        diagnosis = "no patients"
    elif n_positive == 0:
        diagnosis = "no positive patients"
    elif n_negative == 0:
        diagnosis = "no negative patients"
    else:
        auc, variance, _, _ = auc_and_influence(negative, positive)
        if min(n_positive, n_negative) == 1:
            diagnosis = "one patient in a class"
        elif variance <= 0:
            diagnosis = "separated" if auc in {0.0, 1.0} else "no spread"
        else:
            error = math.sqrt(variance)
            interval = logit_interval(auc, error)
    return Evaluation(
        diagnosis=diagnosis,
        n_positive=n_positive,
        n_negative=n_negative,
        auc=auc,
        auc_standard_error=error,
        auc_interval=interval,
        log_loss=log_loss,
        accuracy=accuracy,
    )


def auc_and_influence(
    negative: NDArray[np.float64], positive: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64]]:
    """Return AUC, its variance by DeLong, and per bin by how much a negative, or a positive, there is above or below it.

    The counts of bins need not be whole, nor positive. Both classes have patients. Nan-free: the variance is 0 when a class has
    one patient.
    """
    m, n = positive.sum(), negative.sum()
    won_by_positive = (np.cumsum(negative) - 0.5 * negative) / n  # per bin: share of negatives below, ties half
    lost_by_negative = (m - np.cumsum(positive) + 0.5 * positive) / m
    auc = float(positive @ won_by_positive / m)
    variance = 0.0
    if min(m, n) > 1:
        of_positive = positive @ (won_by_positive - auc) ** 2 / (m - 1)
        of_negative = negative @ (lost_by_negative - auc) ** 2 / (n - 1)
        variance = float(of_positive / m + of_negative / n)
    return auc, variance, lost_by_negative - auc, won_by_positive - auc


def logit_interval(auc: float, error: float) -> tuple[float, float]:
    """Return the 95 % interval of an AUC strictly between 0 and 1, symmetric on the logit scale."""
    centre, width = math.log(auc / (1 - auc)), Z * error / (auc * (1 - auc))
    return _expit(centre - width), _expit(centre + width)


def _expit(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))


def _calibration(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return log loss at bin centres and accuracy at 0.5, or None without patients."""
    everyone = negative.sum() + positive.sum()
    if everyone == 0:
        return None, None
    centres = (np.arange(len(negative)) + 0.5) / len(negative)
    loss = -(positive @ np.log(centres) + negative @ np.log1p(-centres)) / everyone
    right = positive[centres >= 0.5].sum() + negative[centres < 0.5].sum()
    return float(loss), float(right / everyone)
