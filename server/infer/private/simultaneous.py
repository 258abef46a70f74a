"""All pairs of means from a noisy Gram at once: Tukey and Kramer's single step with the noise counted, by parametric bootstrap.

The studentised range assumes exact sums. Its place is taken by the distribution of the largest |d* - d| / se* over all pairs,
where d is the estimated difference, and d* and its noise-aware standard error se* (least_squares.py) are those of a draw of
sampling and noise about the estimates (bootstrap.py): without noise that is the studentised range over the square root of 2.
p = (1 + draws as large) / (1 + draws), and the interval is d -+ the critical value times se, so that it holds 0 just where
p > 0.05. Source: Tukey 1953; Kramer 1956; Davison and Hinkley 1997, sections 4.2 and 5.4.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.noisy_moments import NoisyMoments
from server.infer.private import bootstrap
from server.infer.private.least_squares import Fit, covariance

Float = NDArray[np.float64]

CONFIDENCE = 0.95


def largest(noisy: NoisyMoments, *, fitted: Fit, families: Sequence[Float], draws: int = bootstrap.DRAWS) -> list[Float]:
    """Return the largest |t| over each family of forms (k, q) of the coefficients in z, one per draw, sorted.

    Infinite where the draw's matrix is not positive definite. The draws are shared by all families.
    """
    made: list[list[Float]] = [[] for _ in families]
    for one in bootstrap.simulate(noisy, fitted=fitted, draws=draws):
        beta, variance = bootstrap.refitted(one.under(fitted.beta), inverse=one.inverse, sigma=noisy.sigma)
        for forms, held in zip(families, made, strict=True):
            spread = covariance(beta, inverse=one.inverse, variance=variance, sigma=noisy.sigma, forms=forms)
            errors = np.sqrt(np.diagonal(spread, axis1=1, axis2=2))
            found = np.abs((beta - fitted.beta) @ forms.T / errors).max(axis=1)
            held.append(np.where(one.positive, found, np.inf))
    return [np.sort(np.concatenate(held)) for held in made]


def adjusted(t: Sequence[float], *, drawn: Float) -> tuple[list[float], float | None]:
    """Return the p-values of the differences' `t`, and the critical value; None where too many draws lost their matrix.

    `drawn` is of `largest`, sorted.
    """
    p = [(1 + len(drawn) - int(np.searchsorted(drawn, abs(one)))) / (1 + len(drawn)) for one in t]
    critical = float(drawn[math.ceil(CONFIDENCE * (1 + len(drawn))) - 1])
    return p, critical if math.isfinite(critical) else None
