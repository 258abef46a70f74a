"""Spearman's correlations: marginal histograms become public midranks, whose Gram is exact."""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from common import fixed_point
from common.errors import ConfigError, NotEstimable, ProtocolError
from common.moments import Moments
from common.query import Analysis, ask, triangle
from server.infer import correlation, ranks
from server.infer.correlation import Correlation


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The columns `names`, each with the bin edges on which it is ranked; a grid covers its column's declared bounds."""

    names: tuple[str, ...]
    grids: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.grids) or len(self.names) < 2:
            raise ConfigError("A rank correlation needs two columns and a grid for each.", action="Mend the study.")


def fit(spec: Spec) -> Analysis[Correlation]:
    """Ask for the marginal histograms, then for the Gram of the midranks; rows complete in every column enter.

    Guarantee: the Gram of the midranks is exact (whole numbers over a power of two), so rho is rounded once. p from Student's t
    with n - 2; intervals after Bonett and Wright 2000. Patients of one bin are ties: exact where the grid tells values apart.
    A column that does not vary is named in `constant`. Raises NotEstimable below 4 rows or when a row is outside a grid.
    """
    p = len(spec.names)
    grids = {f"grid.{i}": np.array(grid) for i, grid in enumerate(spec.grids)}
    counts = fixed_point.counts((yield ask("marginals", responses=spec.names, numbers=grids)))
    if counts[-1]:
        raise NotEstimable("outside the grid", term=spec.names[0], action="Let each grid cover its declared bounds.")
    parts = np.split(counts[:-1], np.cumsum([len(grid) - 1 for grid in spec.grids])[:-1])
    n = int(parts[0].sum())
    if any(int(part.sum()) != n for part in parts):
        raise ProtocolError("The histograms do not count the same rows.", action="Ask each hospital which version it runs.")
    unit = max(n, 1).bit_length()
    scores = {
        f"score.{i}": np.ldexp((ranks.doubled_midranks(part) - (n + 1)).astype(np.float64), -unit)
        for i, part in enumerate(parts)
    }
    sums = yield ask("rank_gram", responses=spec.names, numbers=grids | scores)
    exact = [int(value) >> (fixed_point.FRACTION_BITS - 2 * unit) for value in sums]
    if len(exact) != triangle(p + 1) or fixed_point.counts(sums[:1])[0] != n:
        raise ProtocolError("The rows changed between two sums.", action="Run the analysis again.")
    upper = iter(exact[p + 1 :])
    scatter = [[0] * p for _ in range(p)]
    for i in range(p):
        for j in range(i, p):
            scatter[i][j] = scatter[j][i] = n * next(upper)  # midranks are centred: their sums are zero
    held = Moments(columns=spec.names, n=n, exponents=(unit,) * p, sums=(0,) * p, cross=tuple(tuple(row) for row in scatter))
    return _bonett_wright(correlation.correlate(held, names=spec.names))


def _bonett_wright(pearson: Correlation) -> Correlation:
    """Return the correlations with intervals for ranks: the variance of Fisher's z is (1 + r**2 / 2) / (n - 3)."""
    low, high = pearson.ci_low.copy(), pearson.ci_high.copy()
    normal = float(stats.norm.isf((1 - correlation.CONFIDENCE) / 2))
    for (i, j), r in np.ndenumerate(pearson.r):
        if abs(r) < 1:
            reach = normal * math.sqrt((1 + r * r / 2) / (pearson.n - 3))
            low[i, j], high[i, j] = math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)
    for matrix in (low, high):
        matrix.setflags(write=False)
    return replace(pearson, ci_low=low, ci_high=high)
