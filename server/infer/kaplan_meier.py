"""Kaplan-Meier curves and the log-rank test from deaths and censorings per public time interval."""

import itertools
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common import fixed_point
from common.errors import NotEstimable
from common.query import Analysis, ask

CONFIDENCE = 0.95
EVENT = (-0.5, 0.5, 1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """`event` (0 censored, 1 died) at `time`, counted on the edges `grid`, by the levels 0 .. `levels` - 1 of `group`."""

    time: str
    event: str
    grid: tuple[float, ...]
    group: str | None = None
    levels: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The curve after the interval [`start`, `end`): at risk when it starts, deaths in it, survival with Greenwood's error.

    The interval is on the log(-log) scale; None where survival is 1 or 0.
    """

    start: float
    end: float
    at_risk: int
    deaths: int
    survival: float
    standard_error: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One group's curve at the intervals with a death; `median` is the start of the first with survival at most half."""

    level: int
    n: int
    events: int
    steps: tuple[Step, ...]
    median: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Hazard of the second group over the first's, from the log-rank sums of the two alone: exp((O - E) / V), one step (Peto).

    Near the Cox ratio where that is not far from 1. Source: Yusuf et al. 1985.
    """

    first: int
    second: int
    hazard_ratio: float
    hazard_ratio_low: float
    hazard_ratio_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanMeier:
    """Curves, the log-rank test between them and hazard ratios of pairs; the test is None for one group.

    A pair without a death while both were at risk has no ratio.
    """

    curves: tuple[Curve, ...]
    ratios: tuple[Ratio, ...]
    chi2: float | None
    df: int | None
    p: float | None
    outside: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[KaplanMeier]:
    """Ask once. Exact where the grid tells event times apart; who is censored in an interval is at risk in it.

    Raises NotEstimable "no events", "empty group". Source: Kaplan, Meier 1958; Greenwood 1926; Mantel 1966.
    """
    responses = [spec.time, spec.event, *([spec.group] if spec.group else [])]
    numbers = {"grid.0": spec.grid, "grid.1": EVENT}
    levels = spec.levels if spec.group else 1
    if spec.group:
        numbers["grid.2"] = tuple(level - 0.5 for level in range(levels + 1))
    counts = fixed_point.counts((yield ask("table", responses=responses, numbers=numbers)))
    table = counts[:-1].reshape(len(spec.grid) - 1, 2, levels)
    deaths = table[:, 1, :]
    at_risk = np.cumsum(table.sum(axis=1)[::-1], axis=0)[::-1]
    if int(deaths.sum()) == 0:
        raise NotEstimable("no events", term=spec.event, action="Wait until there are events.")
    if not bool(np.all(at_risk[0] > 0)):
        raise NotEstimable("empty group", term=spec.group or spec.time, action="Leave out levels that nobody has.")
    chi2 = _log_rank(at_risk, deaths) if levels > 1 else None
    return KaplanMeier(
        curves=tuple(_curve(spec.grid, at_risk[:, g], deaths[:, g], level=g) for g in range(levels)),
        ratios=tuple(
            made
            for i, j in itertools.combinations(range(levels), 2)
            if (made := _ratio(at_risk[:, [i, j]], deaths[:, [i, j]], first=i, second=j)) is not None
        ),
        chi2=chi2,
        df=None if chi2 is None else levels - 1,
        p=None if chi2 is None else float(stats.chi2.sf(chi2, levels - 1)),
        outside=int(counts[-1]),
    )


def _curve(grid: tuple[float, ...], at_risk: NDArray[np.int64], deaths: NDArray[np.int64], *, level: int) -> Curve:
    normal = float(stats.norm.isf((1 - CONFIDENCE) / 2))
    survival, greenwood, steps = Fraction(1), 0.0, []
    for i in np.flatnonzero(deaths).tolist():
        n, d = int(at_risk[i]), int(deaths[i])
        survival *= Fraction(n - d, n)
        s = float(survival)
        greenwood = greenwood + d / (n * (n - d)) if d < n else math.inf
        low = high = None
        if 0 < s < 1:
            reach = normal * math.sqrt(greenwood) / math.log(s)
            low, high = sorted((s ** math.exp(reach), s ** math.exp(-reach)))
        steps.append(
            Step(
                start=grid[i],
                end=grid[i + 1],
                at_risk=n,
                deaths=d,
                survival=s,
                standard_error=s * math.sqrt(greenwood) if s > 0 else 0.0,
                ci_low=low,
                ci_high=high,
            )
        )
    return Curve(
        level=level,
        n=int(at_risk[0]),
        events=int(deaths.sum()),
        steps=tuple(steps),
        median=next((step.start for step in steps if step.survival <= 0.5), None),
    )


def _ratio(at_risk: NDArray[np.int64], deaths: NDArray[np.int64], *, first: int, second: int) -> Ratio | None:
    difference, variance = _sums(at_risk, deaths)
    off, spread = float(difference[1]), float(variance[1, 1])
    if not spread > 0:
        return None
    reach = float(stats.norm.isf((1 - CONFIDENCE) / 2)) / math.sqrt(spread)
    made = [math.exp(off / spread + way * reach) for way in (0, -1, 1)]
    return Ratio(first=first, second=second, hazard_ratio=made[0], hazard_ratio_low=made[1], hazard_ratio_high=made[2])


def _log_rank(at_risk: NDArray[np.int64], deaths: NDArray[np.int64]) -> float:
    """Return the chi-square of observed less expected deaths."""
    difference, variance = _sums(at_risk, deaths)
    left = difference[:-1]
    try:
        return float(left @ np.linalg.solve(variance[:-1, :-1], left))
    except np.linalg.LinAlgError:
        raise NotEstimable("too few events", term="log-rank", action="No time has two groups at risk and a death.") from None


def _sums(at_risk: NDArray[np.int64], deaths: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return observed less expected deaths by group and their covariance under the hypergeometric law, ties and all."""
    k = at_risk.shape[1]
    difference, variance = np.zeros(k), np.zeros((k, k))
    for n, d in zip(at_risk.astype(np.float64), deaths.astype(np.float64), strict=True):
        total, died = n.sum(), d.sum()
        if died == 0:
            continue
        share = n / total
        difference += d - died * share
        if total > 1:
            variance += died * (total - died) / (total - 1) * (np.diag(share) - np.outer(share, share))
    return difference, variance
