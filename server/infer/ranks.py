"""Rank statistics from histograms on a public grid: midranks, Mann-Whitney, Kruskal-Wallis."""

import itertools
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common import fixed_point
from common.errors import ConfigError, NotEstimable
from common.query import Analysis, ask
from server import evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """`response` counted on the bin edges `grid`, compared between the levels 0 .. `levels` - 1 of `group`."""

    response: str
    grid: tuple[float, ...]
    group: str
    levels: int

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ConfigError("A comparison needs two groups.", action="Name a factor of two levels or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MannWhitney:
    """U of the last group against the first; `superiority` is P(last > first) + P(tie) / 2, the AUC."""

    u: float
    z: float
    p: float
    superiority: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Superiority:
    """P(second > first) + P(tie) / 2 of two groups by position, with DeLong's 95 % interval; None where there is none."""

    first: int
    second: int
    superiority: float
    superiority_low: float | None
    superiority_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Kruskal and Wallis' H with ties corrected, and for two groups Mann-Whitney; `epsilon_squared` is H / (n - 1).

    `outside` patients lie outside the grid and are not counted in `n`.
    """

    n: tuple[int, ...]
    mean_ranks: tuple[float, ...]
    h: float
    df: int
    p: float
    epsilon_squared: float
    mann_whitney: MannWhitney | None
    pairs: tuple[Superiority, ...]
    outside: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Ranks]:
    """Ask once for the histogram per group. Statistics are formed in exact integers; p are normal and chi-square upper tails.

    Mann-Whitney's p has the continuity correction. Patients of one bin are ties: exact where the grid tells values apart.
    Raises NotEstimable "empty group" or "constant". Source: Mann, Whitney 1947; Kruskal, Wallis 1952; DeLong et al. 1988.
    """
    numbers = {"grid.0": [level - 0.5 for level in range(spec.levels + 1)], "grid.1": spec.grid}
    counts = fixed_point.counts((yield ask("table", responses=[spec.group, spec.response], numbers=numbers)))
    table = counts[:-1].reshape(spec.levels, len(spec.grid) - 1)
    sizes = [int(size) for size in table.sum(axis=1)]
    if min(sizes) == 0:
        raise NotEstimable("empty group", term=spec.group, action="Leave out levels that nobody has.")
    pooled = table.sum(axis=0)
    if int((pooled > 0).sum()) < 2:
        raise NotEstimable("constant", term=spec.response, action="Use a finer grid, or leave it out.")
    n = sum(sizes)
    twice = doubled_midranks(pooled)
    sums = [sum(int(a) * int(b) for a, b in zip(row, twice, strict=True)) for row in table]  # twice the rank sums
    ties = Fraction(sum(int(t) ** 3 - int(t) for t in pooled), n**3 - n)
    between = sum(Fraction(total**2, 4 * size) for total, size in zip(sums, sizes, strict=True))
    h = float((Fraction(12, n * (n + 1)) * between - 3 * (n + 1)) / (1 - ties))
    return Ranks(
        n=tuple(sizes),
        mean_ranks=tuple(total / (2 * size) for total, size in zip(sums, sizes, strict=True)),
        h=h,
        df=spec.levels - 1,
        p=float(stats.chi2.sf(h, spec.levels - 1)),
        epsilon_squared=h / (n - 1),
        mann_whitney=_mann_whitney(sums, sizes, ties=ties) if spec.levels == 2 else None,
        pairs=tuple(_superiority(table, i, j) for i, j in itertools.combinations(range(spec.levels), 2)),
        outside=int(counts[-1]),
    )


def _superiority(table: NDArray[np.int64], first: int, second: int) -> Superiority:
    found = evaluate.from_histogram(table[[first, second]])
    if found.auc is None:
        raise NotEstimable("empty group", term="rank test", action="Leave out levels that nobody has.")
    low, high = found.auc_interval or (None, None)
    return Superiority(first=first, second=second, superiority=found.auc, superiority_low=low, superiority_high=high)


def doubled_midranks(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return twice the midrank of each bin's patients, whole numbers: 2 (before) + count + 1."""
    before = np.cumsum(histogram) - histogram
    result: NDArray[np.int64] = 2 * before + histogram + 1
    return result


def _mann_whitney(sums: list[int], sizes: list[int], *, ties: Fraction) -> MannWhitney:
    first, last = sizes
    n = first + last
    u = Fraction(sums[1], 2) - Fraction(last * (last + 1), 2)
    variance = Fraction(first * last * (n + 1), 12) * (1 - ties)
    off = u - Fraction(first * last, 2)
    z = math.copysign(float(max(Fraction(0), abs(off) - Fraction(1, 2))) / math.sqrt(variance), off)
    return MannWhitney(u=float(u), z=z, p=min(1.0, 2 * float(stats.norm.sf(abs(z)))), superiority=float(u / (first * last)))
