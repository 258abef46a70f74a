"""ComBat in the form that sends no hospital's mean: pooled effects here, batch effects removed at the hospital."""

from dataclasses import dataclass

import numpy as np

from common import fixed_point
from common.errors import ConfigError, NotEstimable, ProtocolError
from common.harmonisation import Harmonisation
from common.query import Analysis, Column, ask, centre_half, symmetric, triangle
from server.infer import newton


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Harmonise `features` over hospitals, keeping what `covariates` explain (there may be none)."""

    features: tuple[Column, ...]
    covariates: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        names = [column.name for column in (*self.features, *self.covariates)]
        if not self.features or len(set(names)) != len(names):
            raise ConfigError("ComBat names each column once, and at least one feature.", action="Mend the study.")


def fit(spec: Spec) -> Analysis[Harmonisation]:
    """Ask once for the sums centred within each hospital; hospitals then apply client/harmonise.py to their own rows.

    beta = (sum C'C)^-1 sum C'X, grand mean = mean of x - C beta, pooled variance = sum (x - C beta)**2 / N, C and x centred
    in the hospital in the first and last. Raises NotEstimable "aliased" or "constant" that names the column.
    Source: Johnson, Li, Rabinovic 2007; Frisch, Waugh 1933.
    """
    features, covariates = _names(spec.features), _names(spec.covariates)
    sums = yield ask("within", responses=features, predictors=covariates)
    c, x = len(covariates), len(features)
    values = fixed_point.read(sums)
    if len(values) != 1 + c + x + triangle(c) + c * x + x:
        raise ProtocolError("An opened sum has the wrong length.", action="Check that both sides run the same version.")
    n = int(fixed_point.counts(sums[:1])[0])
    if n <= c + 2:
        raise NotEstimable("too few rows", term=features[0], action="Leave out covariates.")
    totals, rest = values[1 : 1 + c + x], values[1 + c + x :]
    inner = symmetric(rest[: triangle(c)], size=c)
    cross = rest[triangle(c) : triangle(c) + c * x].reshape(c, x)
    squares = rest[triangle(c) + c * x :]
    effects = newton.invert(inner, names=covariates, diagnosis="aliased") @ cross if c else np.zeros((0, x))
    left = squares - np.einsum("cx,cx->x", effects, cross)
    for name, residual, square in zip(features, left.tolist(), squares.tolist(), strict=True):
        if residual <= 1e-13 * square or square <= 0:
            raise NotEstimable("constant", term=name, action="It does not vary within hospitals beside the covariates.")
    grid_x = np.array([centre_half(column.lower, column.upper) for column in spec.features]).T
    grid_c = np.array([centre_half(column.lower, column.upper) for column in spec.covariates]).reshape(c, 2).T
    own = effects * grid_x[1][None, :] / grid_c[1][:, None]
    means_c = grid_c[0] + grid_c[1] * totals[:c] / n
    means_x = grid_x[0] + grid_x[1] * totals[c:] / n
    return Harmonisation(
        features=features,
        covariates=covariates,
        n=n,
        effects=own,
        grand_means=means_x - means_c @ own,
        deviations=grid_x[1] * np.sqrt(left / n),
    )


def _names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)
