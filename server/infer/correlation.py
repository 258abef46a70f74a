"""Moments become Pearson correlations with p-values and Fisher intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from common.errors import NotEstimable
from common.moments import Moments
from server.infer import adjust

CONFIDENCE = 0.95
QUANTILE = -float(special.ndtri((1 - CONFIDENCE) / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """A correlation matrix: `r`, `p_values`, `ci_low` and `ci_high` of shape (p, p), over `n` rows.

    `p_bh` and `p_holm` are adjusted over all pairs (Benjamini-Hochberg, Holm); their diagonals are nan.

    `constant` names the columns that do not vary: their rows and columns are nan, and no number is made up for them.
    """

    names: tuple[str, ...]
    n: int
    r: NDArray[np.float64]
    p_values: NDArray[np.float64]
    p_bh: NDArray[np.float64]
    p_holm: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]
    constant: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it; nan becomes None."""
        matrices = {"r": self.r, "p": self.p_values, "p_bh": self.p_bh, "p_holm": self.p_holm}
        matrices |= {"ci_low": self.ci_low, "ci_high": self.ci_high}
        return {
            "names": list(self.names),
            "n": self.n,
            "constant": list(self.constant),
            **{key: [[None if math.isnan(v) else v for v in row] for row in m.tolist()] for key, m in matrices.items()},
        }


def correlate(moments: Moments, *, names: Sequence[str]) -> Correlation:
    """Return the Pearson correlations of the columns `names`.

    Guarantee: r and 1 - r**2 are formed from exact integers and rounded at the end, so r equals the pooled value to about two
    units in the last place, and p keeps its digits when |r| is close to 1. p is two-sided, from the upper tail of Student's
    t, which is the beta tail of the reference; intervals are Fisher's z at 95 %.
    A column that does not vary gives nan and is named in `constant`. Raises NotEstimable below 4 rows, ConfigError on an
    unknown name.
    Source: Fisher 1921; reference statistics.md section 2.
    """
    columns = [moments.index(name) for name in names]
    if moments.n < 4:
        raise NotEstimable("too few rows", term="correlation", action="A correlation needs at least 4 complete patients.")
    return from_scatter([[moments.cross[i][j] for j in columns] for i in columns], names=names, n=moments.n, fixed=0)


def from_scatter(scatter: Sequence[Sequence[int]], *, names: Sequence[str], n: int, fixed: int) -> Correlation:
    """Return the correlations of an integer scatter matrix, of any scale; `fixed` columns were held fixed in it."""
    p = len(names)
    r, p_values, low, high = (np.full((p, p), np.nan) for _ in range(4))
    for a in range(p):
        for b in range(a, p):
            product = scatter[a][a] * scatter[b][b]
            if product == 0:
                continue
            square = Fraction(scatter[a][b] ** 2, product)
            pair = _pair(float(square), left=float(1 - square), sign=1 if scatter[a][b] >= 0 else -1, n=n - fixed)
            r[a, b], p_values[a, b], low[a, b], high[a, b] = pair
            r[b, a], p_values[b, a], low[b, a], high[b, a] = pair
    above = np.triu_indices(p, 1)
    bh, holm = np.full((p, p), np.nan), np.full((p, p), np.nan)
    for matrix, adjusted in ((bh, adjust.benjamini_hochberg), (holm, adjust.holm)):
        matrix[above] = adjusted(p_values[above].tolist())
        matrix.T[above] = matrix[above]
    for matrix in (r, p_values, bh, holm, low, high):
        matrix.setflags(write=False)
    return Correlation(
        names=tuple(names),
        n=n,
        r=r,
        p_values=p_values,
        p_bh=bh,
        p_holm=holm,
        ci_low=low,
        ci_high=high,
        constant=tuple(name for i, name in enumerate(names) if scatter[i][i] == 0),
    )


def _pair(square: float, *, left: float, sign: int, n: int) -> tuple[float, float, float, float]:
    """Return r, p and the interval from r**2 and 1 - r**2, each rounded once."""
    if left == 0:
        return float(sign), 0.0, float(sign), float(sign)
    size = math.sqrt(square)
    p = 2 * float(special.stdtr(n - 2, -math.sqrt(square / left * (n - 2))))  # the upper tail: t is symmetric
    centre = 0.5 * math.log1p(2 * size * (1 + size) / left)  # artanh |r|, with 1 - |r| = left / (1 + |r|)
    reach = QUANTILE / math.sqrt(n - 3)
    ends = sorted((sign * math.tanh(centre - reach), sign * math.tanh(centre + reach)))
    return sign * size, min(p, 1.0), ends[0], ends[1]
