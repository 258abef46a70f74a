"""A hospital removes its own batch effect from its features (ComBat): its means and variances never leave."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client import columns
from client.inside import Cohort
from common import canonical, harmonisation
from common.errors import DataError, OutsidePolicy
from common.harmonisation import Harmonisation
from common.study import Study

Matrix = NDArray[np.float64]
ROUNDS_MOST = 10_000
CHANGE_LEAST = 1e-13
ROWS_LEAST = 3
FEATURES_LEAST = 2


def question(study: Study, *, coefficients: bytes) -> dict[str, bytes]:
    """Return what is asked with the coefficients, for client/exact.py: a hospital takes one set of them, ever.

    Named by the harmonisation, the patients' variables, their declared bounds and the recipe. Raises BadQuery on coefficients
    that are not of the study, OutsidePolicy where it has no harmonisation.
    """
    position, _ = _read(study, coefficients)
    asked = {
        **study.harmonisation_of(study.asked(position).variables),
        "variables": [study.question(name) for name in sorted(study.asked(position).variables)],
        "recipe": study.recipe.model_dump(mode="python"),
    }
    return {canonical.digest(asked): coefficients}


def cohort(held: Cohort, *, study: Study, coefficients: bytes) -> Cohort:
    """Return the cohort with this hospital's batch effect removed from the study's features.

    Patients of the Gram, with a value in every variable behind it, are harmonised together; of all others the features are
    missing: so which patients enter a sum does not depend on the coefficients.
    Raises BadQuery and OutsidePolicy as `question`; DataError as `harmonise`, or when a harmonised value lies outside its wide
    bounds: nobody is left out for it.
    """
    position, pooled = _read(study, coefficients)
    bound = study.asked(position)
    table = columns.table(held, columns=bound.columns, study=study)
    complete = columns.complete(table)
    names = [column.name for column in bound.columns]
    x, c = (table[complete][:, [names.index(name) for name in some]] for some in (pooled.features, pooled.covariates))
    try:
        with np.errstate(all="ignore"):  # hostile coefficients overflow: what is not finite is not within bounds
            made = harmonise(x, covariates=c, pooled=pooled)
    except ArithmeticError:  # so do Python's own numbers, which raise
        raise DataError("Harmonising overflows.", action="Check the coordinator's version; propose wider bounds.") from None
    low, high = np.array([study.declared_bounds(name) for name in pooled.features]).T
    if not bool(np.all((made >= low) & (made <= high))):
        raise DataError(
            "A harmonised value is outside its declared bounds, widened by their width.", action="Propose wider bounds."
        )
    changed = held.table.copy()
    for at, name in enumerate(pooled.features):
        column = np.full(len(changed), np.nan)
        column[complete] = made[:, at]
        changed[:, held.columns.index(name)] = column
    return replace(held, table=changed)


def _read(study: Study, coefficients: bytes) -> tuple[int, Harmonisation]:
    position = study.harmonised
    if position is None:
        raise OutsidePolicy("The study harmonises nothing.", action="Check the coordinator's version.")
    form = study.asked(position).forms[0]
    return position, harmonisation.parse(coefficients, features=form.responses, covariates=form.predictors)


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
