"""Ordinal logistic regression (proportional odds) for graded outcomes, by Newton sums."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from common import fixed_point
from common.errors import ConfigError, NotEstimable
from common.query import Analysis, Column, Query, ask, centre_half
from server.infer import newton, wald
from server.infer.newton import Vector
from server.infer.wald import Coefficient

LEVEL_LEAST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Logit P(outcome <= j) = threshold_j - predictors, for the levels 0 .. `levels` - 1 of `outcome`."""

    outcome: str
    levels: int
    predictors: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [self.outcome, *(column.name for column in self.predictors)]
        if len(set(names)) != len(names) or not self.predictors or self.levels < 2:
            raise ConfigError("An ordinal model has two levels, names each column once, and one predictor.", action="Mend it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordinal:
    """A fit: `rows` of the predictors, `ratio` the odds ratio of a higher grade; `thresholds` named "j|j+1".

    `chi2` is the likelihood ratio against the thresholds alone.
    """

    outcome: str
    rows: tuple[Coefficient, ...]
    thresholds: tuple[Coefficient, ...]
    n: int
    level_counts: tuple[int, ...]
    log_likelihood: float
    chi2: float
    chi2_df: int
    chi2_p: float
    queries: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Ordinal]:
    """Ask for the level counts, then climb from their logits; errors from the observed information.

    Raises NotEstimable: "too few patients" below 5 in a level, "constant", "aliased", "separated", "no convergence".
    Source: McCullagh 1980.
    """
    cuts, p = spec.levels - 1, len(spec.predictors)
    columns = tuple(column.name for column in spec.predictors)
    grid = [level - 0.5 for level in range(spec.levels + 1)]
    sums = yield ask("table", responses=[spec.outcome], predictors=columns, numbers={"grid.0": grid})
    *counts, outside = fixed_point.counts(sums).tolist()
    if outside:
        raise NotEstimable("another level", term=spec.outcome, action="Code the levels 0, 1, 2, ... without a gap.")
    if min(counts) < LEVEL_LEAST:
        raise NotEstimable("too few patients", term=f"level {counts.index(min(counts))}", action="Merge levels.")
    below = np.cumsum(counts)[:-1]
    start = np.concatenate([np.log(below) - np.log(sum(counts) - below), np.zeros(p)])

    def question(at: Vector) -> Query:
        numbers = {"thresholds": at[:cuts], "coefficients": at[cuts:]}
        return ask("ordinal", responses=[spec.outcome], predictors=columns, numbers=numbers)

    names = tuple(f"{level}|{level + 1}" for level in range(cuts))
    best = yield from newton.maximise(
        question,
        start=start,
        names=names + columns,
        reader=lambda _, sums: newton.read(sums, counts=1 + spec.levels, size=cuts + p),
        check=lambda _: None,
        allowed=lambda at: bool(np.all(np.diff(at[:cuts]) > 0)),
    )
    transform = newton.unscaled(spec.predictors, intercept=False)
    grid_of = [centre_half(column.lower, column.upper) for column in spec.predictors]
    whole = np.eye(cuts + p)
    whole[cuts:, cuts:] = transform
    whole[:cuts, cuts:] = [centre / half for centre, half in grid_of]
    rows = wald.table(names + columns, estimates=whole @ best.coefficients, covariance=whole @ best.covariance @ whole.T)
    chi2 = max(0.0, 2 * (best.last.likelihood - best.first.likelihood))
    return Ordinal(
        outcome=spec.outcome,
        rows=rows[cuts:],
        thresholds=rows[:cuts],
        n=best.last.counts[0],
        level_counts=best.last.counts[1:],
        log_likelihood=best.last.likelihood,
        chi2=chi2,
        chi2_df=p,
        chi2_p=float(stats.chi2.sf(chi2, p)),
        queries=best.evaluations + 1,
    )
