"""A hospital removes its own batch effect from its features (ComBat): its means and variances never leave."""

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.harmonisation import Harmonisation

Matrix = NDArray[np.float64]
ROUNDS_MOST = 10_000
CHANGE_LEAST = 1e-13
ROWS_LEAST = 3
FEATURES_LEAST = 2


def harmonise(features: Matrix, *, covariates: Matrix, pooled: Harmonisation) -> Matrix:
    """Return this hospital's features without its batch effect, shape (patients, features), in the same units.

    `features` (patients, features) and `covariates` (patients, covariates) are complete and ordered as in `pooled`. Location
    and scale are shrunk by parametric empirical Bayes over the features, iterated to 1e-13.
    Raises DataError on other shapes, missing values, below 3 patients or 2 features, or a feature that does not vary here.
    Source: Johnson, Li, Rabinovic 2007.
    """
    n, count = len(features), len(pooled.features)
    if features.shape != (n, count) or covariates.shape != (n, len(pooled.covariates)):
        raise DataError("The table does not have the harmonised columns.", action="Pass features and covariates in order.")
    if n < ROWS_LEAST or count < FEATURES_LEAST or not bool(np.isfinite(features).all() and np.isfinite(covariates).all()):
        raise DataError("Harmonising needs 3 complete patients and 2 features.", action="Leave incomplete patients out.")
    fitted = pooled.grand_means + covariates @ pooled.effects
    z = (features - fitted) / pooled.deviations
    own_mean, own_variance = z.mean(axis=0), z.var(axis=0, ddof=1)
    if not bool(np.all((np.ptp(features, axis=0) > 0) & (own_variance > 0))):
        raise DataError("A feature does not vary at this hospital.", action="Leave it out of the harmonisation.")
    prior_mean, prior_spread = float(own_mean.mean()), float(own_mean.var(ddof=1))
    m, s2 = float(own_variance.mean()), float(own_variance.var(ddof=1))
    if s2 == 0 or prior_spread == 0:
        raise DataError("The features cannot inform one another here.", action="Harmonise more features together.")
    a, b = (2 * s2 + m * m) / s2, (m * s2 + m**3) / s2
    gamma, delta = own_mean, own_variance
    for _ in range(ROUNDS_MOST):
        after = (prior_spread * n * own_mean + delta * prior_mean) / (prior_spread * n + delta)
        scale = (0.5 * ((z - after) ** 2).sum(axis=0) + b) / (n / 2 + a - 1)
        change = max(float(np.max(np.abs(after - gamma))), float(np.max(np.abs(scale - delta) / delta)))
        gamma, delta = after, scale
        if change < CHANGE_LEAST:
            break
    result: Matrix = (z - gamma) / np.sqrt(delta) * pooled.deviations + fitted
    return result
