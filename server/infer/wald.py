"""Coefficients with their covariance become a table: Wald statistic, two-sided p, interval, and ratio."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """One coefficient, per unit of its term; `ratio` is its exponential (odds or hazard ratio), inf on overflow."""

    term: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float
    z: float
    p: float
    ratio: float
    ratio_low: float
    ratio_high: float


def table(names: Sequence[str], *, estimates: NDArray[np.float64], covariance: NDArray[np.float64]) -> tuple[Coefficient, ...]:
    """Return one row a coefficient, 95 %, p from the normal upper tail."""
    errors = np.sqrt(np.diag(covariance))
    return tuple(
        coefficient(name, estimate=estimate, error=error)
        for name, estimate, error in zip(names, estimates.tolist(), errors.tolist(), strict=True)
    )


def coefficient(name: str, *, estimate: float, error: float, p: float | None = None) -> Coefficient:
    """Return one row; `p` replaces Wald's where another test was made."""
    reach = float(stats.norm.isf((1 - CONFIDENCE) / 2)) * error
    z = estimate / error
    return Coefficient(
        term=name,
        estimate=estimate,
        standard_error=error,
        ci_low=estimate - reach,
        ci_high=estimate + reach,
        z=z,
        p=2 * float(stats.norm.sf(abs(z))) if p is None else p,
        ratio=_exp(estimate),
        ratio_low=_exp(estimate - reach),
        ratio_high=_exp(estimate + reach),
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf
