"""Least squares from a noisy Gram, in units of z, with a covariance that counts sampling and noise.

Let A be the true block of the predictors, intercept first, c its column with the outcome, E the noise, E_x its block and e its
column with the outcome. The noisy normal equations (A + E_x) b = c + e give

    b - beta = (A + E_x)**-1 (c - A beta + u),    u = e - E_x beta.

u_i = e_i - sum_j E_ij beta_j. Off the diagonal an entry has variance sigma**2 / 2, on it sigma**2, and E_ik is in u_i with the
factor beta_k and in u_k with the factor beta_i. So Var(u_i) = sigma**2 / 2 (1 + |beta|**2 + beta_i**2) and Cov(u_i, u_k) =
sigma**2 / 2 beta_i beta_k:

    Cov(u) = sigma**2 / 2 [(1 + |beta|**2) I + beta beta']

for every coordinate, the intercept's too: its entries carry the same noise, entry (0, 0) being that on the number of patients.
With the sampling part, to first order in A**-1 E, V = s**2 A**-1 + A**-1 Cov(u) A**-1.

The residual sum of squares is g'Mg with g = (-beta, 1), so its noise has sd sigma |g|**2 = sigma (1 + |beta|**2) (E is the same
in every rotation), and as u'(A**-1)u is lost in the fit, it is low by
sigma**2 / 2 [(1 + |beta|**2) tr A**-1 + beta'A**-1 beta], which is put back. Where it is below the sd of its
noise, that sd stands in its place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.errors import ConfigError, NotEstimable
from common.noisy_moments import NoisyMoments
from server.infer.private import resolved

Float = NDArray[np.float64]

CONFIDENCE = 0.95
INTERCEPT = "(intercept)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A linear form of the coefficients, in the dictionary's units.

    `width_ratio` is the width of the interval over that of the same estimate without noise. `df` belongs to Student's t, by
    Satterthwaite: it falls where the noise makes s**2 uncertain.
    """

    value: float
    standard_error: float
    df: float
    width_ratio: float

    @property
    def reach(self) -> float:
        """Return half the width of the 95 % interval."""
        return float(stats.t.isf((1 - CONFIDENCE) / 2, self.df)) * self.standard_error

    @property
    def t(self) -> float:
        """Return the estimate over its standard error."""
        return self.value / self.standard_error

    @property
    def p(self) -> float:
        """Return the two-sided p-value."""
        return 2 * float(stats.t.sf(abs(self.t), self.df))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients `beta` (q,), intercept first, in z; `inverse` (q, q) of A; `variance` s**2 in z, `variance_sd` its own sd.

    `total` is the centred sum of squares of the outcome; `centre` and `half` are of the outcome, then of the predictors.
    """

    outcome: str
    predictors: tuple[str, ...]
    n: float
    df: float
    sigma: float
    beta: Float
    inverse: Float
    variance: float
    variance_sd: float
    total: float
    centre: Float
    half: Float

    @property
    def covariance(self) -> Float:
        """Return V, shape (q, q)."""
        return covariance(self.beta, inverse=self.inverse, variance=self.variance, sigma=self.sigma)

    def row(self, weights: Mapping[str, float], *, intercept: float = 0.0) -> Float:
        """Return the weights of the coefficients in z, (q,), of a form in the dictionary's units."""
        slopes = np.array([weights.get(name, 0.0) for name in self.predictors])
        row: Float = self.half[0] * np.concatenate([[intercept], slopes / self.half[1:]])
        row[1:] -= intercept * self.half[0] * self.centre[1:] / self.half[1:]
        return row

    def form(self, weights: Mapping[str, float], *, intercept: float = 0.0) -> Estimate:
        """Return sum of weight * coefficient (+ `intercept` * the intercept), all in the dictionary's units."""
        row = self.row(weights, intercept=intercept)
        sampling = float(row @ self.inverse @ row)
        both = float(row @ self.covariance @ row)
        df = max(1.0, 2 * both**2 / (sampling * self.variance_sd) ** 2)
        quantiles = [float(stats.t.isf((1 - CONFIDENCE) / 2, one)) for one in (df, self.df)]
        return Estimate(
            value=float(row @ self.beta) + intercept * float(self.centre[0]),
            standard_error=math.sqrt(both),
            df=df,
            width_ratio=quantiles[0] / quantiles[1] * math.sqrt(both / (sampling * self.variance)),
        )


def fit(noisy: NoisyMoments, *, outcome: str, predictors: Sequence[str]) -> Fit:
    """Regress `outcome` on `predictors` with an intercept, all columns of the noisy Gram.

    | input | result |
    |---|---|
    | fewer patients than coefficients, or a number of patients that is all noise | NotEstimable "too noisy" |
    | predictors that do not stand out of the noise: aliased, constant, too few patients | NotEstimable "too noisy" |
    | names unknown, repeated or none, the outcome among the predictors | ConfigError |

    Source: the derivation above; reference statistics.md section 7; Satterthwaite 1946.
    """
    if not predictors:
        raise ConfigError("A regression names each column once, and at least one predictor.", action="Mend the study.")
    y, *x = resolved.positions(noisy, names=(outcome, *predictors))
    rows = [0, *x]
    n, q, matrix = resolved.patients(noisy), len(rows), noisy.matrix
    if n < q + 2:
        raise NotEstimable(resolved.DIAGNOSIS, term=outcome, action=resolved.ACTION)
    block = matrix[np.ix_(rows, rows)]
    inverted = resolved.inverse(block, names=(INTERCEPT, *predictors), sigma=noisy.sigma)
    beta = inverted @ matrix[rows, y]
    residual = matrix[y, y] - 2 * beta @ matrix[rows, y] + beta @ block @ beta
    df = n - q
    variance, noise_sd = residual_variance(residual, beta=beta, inverse=inverted, df=df, sigma=noisy.sigma)
    scale = [y - 1, *(at - 1 for at in x)]
    return Fit(
        outcome=outcome,
        predictors=tuple(predictors),
        n=n,
        df=df,
        sigma=noisy.sigma,
        beta=beta,
        inverse=inverted,
        variance=float(variance),
        variance_sd=math.hypot(math.sqrt(2 / df) * float(variance), float(noise_sd)),
        total=float(matrix[y, y] - matrix[0, y] ** 2 / n),
        centre=np.array(noisy.centre)[scale],
        half=np.array(noisy.half)[scale],
    )


def residual_variance(
    residual: Float | float, *, beta: Float, inverse: Float, df: Float | float, sigma: float
) -> tuple[Float, Float]:
    """Return s**2 and the sd that the noise gives it; any leading shape (...), beta (..., q), inverse (..., q, q)."""
    length = (beta**2).sum(axis=-1)
    lost = (1 + length) * np.trace(inverse, axis1=-2, axis2=-1) + np.einsum("...i,...ij,...j->...", beta, inverse, beta)
    noise_sd = sigma * (1 + length) / df
    return np.maximum((residual + sigma**2 / 2 * lost) / df, noise_sd), noise_sd


def covariance(beta: Float, *, inverse: Float, variance: Float | float, sigma: float, forms: Float | None = None) -> Float:
    """Return V, or the covariance of `forms` (k, q) of the coefficients; any leading shape (...), as `residual_variance`."""
    weights = np.eye(beta.shape[-1]) if forms is None else forms
    turned = weights @ inverse
    length = np.asarray((beta**2).sum(axis=-1))[..., None, None]
    along = np.einsum("...ki,...i->...k", turned, beta)
    noise = (1 + length) * (turned @ np.swapaxes(turned, -1, -2)) + along[..., :, None] * along[..., None, :]
    result: Float = np.asarray(variance)[..., None, None] * (turned @ weights.T) + sigma**2 / 2 * noise
    return result
