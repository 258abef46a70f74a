"""Cox regression: one baseline hazard on a public time grid, or one for each hospital on its own exact times; Efron's ties."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from common import efron, fixed_point
from common.errors import ConfigError, NotEstimable, ProtocolError
from common.query import Analysis, Column, Query, ask, centre_half, symmetric, triangle
from server.infer import newton, second_moments, wald
from server.infer.newton import Evaluation, Vector
from server.infer.wald import Coefficient

EVENTS_LEAST = 5
SPREAD_LARGEST = 5.0  # standard deviation of the linear predictor: beyond it a hazard ratio is taken for infinite


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Hazard of `event` (0 or 1) at `time` by predictors. `grid`: edges of the time intervals of the pooled model.

    An empty grid stratifies by hospital. Raises ConfigError on a repeated name or no predictor.
    """

    time: str
    event: str
    predictors: tuple[Column, ...]
    grid: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names = [self.time, self.event, *(column.name for column in self.predictors)]
        if len(set(names)) != len(names) or not self.predictors:
            raise ConfigError("A model names each column once, and at least one predictor.", action="Mend the study.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cox:
    """A fit: hazard ratios are `ratio` of each row; `chi2` is the likelihood ratio against no predictor.

    `stratified` by hospital, or pooled on the grid, where times of one interval are ties and `outside` lie outside it.
    """

    stratified: bool
    rows: tuple[Coefficient, ...]
    n: int
    events: int
    outside: int
    log_likelihood: float
    chi2: float
    chi2_df: int
    chi2_p: float
    queries: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Cox]:
    """Climb the partial likelihood. The pooled fit is exact where the grid tells event times apart.

    Raises NotEstimable: "too few events" below 5, "constant", "aliased", "separated" (a hazard ratio without bound),
    "no convergence". Source: Cox 1972; Efron 1977.
    """
    size = len(spec.predictors)
    names = tuple(column.name for column in spec.predictors)
    held = second_moments.read((yield ask("gram", responses=names)), columns=spec.predictors)
    if held is None:
        raise NotEstimable("too few events", term=spec.event, action="Nobody has a value in every column.")
    half = np.array([centre_half(column.lower, column.upper)[1] for column in spec.predictors])
    centre = np.array([centre_half(column.lower, column.upper)[0] for column in spec.predictors])
    mean = (np.array([float(value) for value in held.means]) - centre) / half
    spread = np.array([[float(value / held.n) for value in row] for row in held.scatter]) / np.outer(half, half)
    best = yield from newton.maximise(
        lambda b: _question(spec, b, offset=float(mean @ b)),
        start=np.zeros(size),
        names=names,
        reader=lambda b, sums: _read(spec, b, sums, offset=float(mean @ b)),
        check=lambda first: _check(spec, first),
        allowed=lambda b: float(b @ spread @ b) <= SPREAD_LARGEST**2,
    )
    transform = newton.unscaled(spec.predictors, intercept=False)
    chi2 = max(0.0, 2 * (best.last.likelihood - best.first.likelihood))
    n, events, outside = best.last.counts
    return Cox(
        stratified=not spec.grid,
        rows=wald.table(names, estimates=transform @ best.coefficients, covariance=transform @ best.covariance @ transform.T),
        n=n,
        events=events,
        outside=outside,
        log_likelihood=best.last.likelihood,
        chi2=chi2,
        chi2_df=size,
        chi2_p=float(stats.chi2.sf(chi2, size)),
        queries=best.evaluations + 1,
    )


def _question(spec: Spec, b: Vector, *, offset: float) -> Query:
    columns = [column.name for column in spec.predictors]
    if spec.grid:
        numbers: dict[str, Sequence[float] | Vector] = {"coefficients": b, "offset": [offset], "grid.0": spec.grid}
        return ask("cox", responses=[spec.time, spec.event], predictors=columns, numbers=numbers)
    return ask("cox_stratified", responses=[spec.time, spec.event], predictors=columns, numbers={"coefficients": b})


def _check(spec: Spec, first: Evaluation) -> None:
    if first.counts[1] < EVENTS_LEAST:
        raise NotEstimable("too few events", term=spec.event, action=f"A Cox model needs at least {EVENTS_LEAST} events.")


def _read(spec: Spec, b: Vector, sums: Sequence[int], *, offset: float) -> Evaluation:
    p = len(spec.predictors)
    if not spec.grid:
        own = newton.read(sums, counts=2, size=p)
        return Evaluation(counts=(*own.counts, 0), likelihood=own.likelihood, score=own.score, information=own.information)
    return _pooled(spec, b, sums, offset=offset)


def _pooled(spec: Spec, b: Vector, sums: Sequence[int], *, offset: float) -> Evaluation:
    """Add the intervals from the last to the first, in integers: each sum is then the set at risk when its interval starts."""
    p, count = len(spec.predictors), len(spec.grid) - 1
    risk = 1 + p + triangle(p)
    per = 2 * risk + 1 + p
    if len(sums) != 2 + count * per:
        raise ProtocolError("An opened sum has the wrong length.", action="Check that both sides run the same version.")
    n, outside = fixed_point.counts(sums[:2]).tolist()
    at_risk = [0] * risk
    parts: list[Vector] = []
    events = 0
    for interval in range(count - 1, -1, -1):
        here = [int(value) for value in sums[2 + interval * per : 2 + (interval + 1) * per]]
        at_risk = [total + own for total, own in zip(at_risk, here[:risk], strict=True)]
        deaths = int(fixed_point.counts(here[2 * risk : 2 * risk + 1])[0])
        if deaths:
            _check_dying(here[risk], at_risk=at_risk[0])
            parts.append(efron.share(fixed_point.read(at_risk), fixed_point.read(here[risk : 2 * risk]), deaths=deaths, p=p))
            died = fixed_point.read(here[2 * risk + 1 :])
            parts[-1][0] += float(died @ b) - deaths * offset
            parts[-1][1 : 1 + p] += died
            events += deaths
    totals = np.array([math.fsum(column) for column in np.array(parts).T]) if parts else np.zeros(risk)
    return Evaluation(
        counts=(n, events, outside),
        likelihood=float(totals[0]),
        score=totals[1 : 1 + p],
        information=symmetric(totals[1 + p :], size=p),
    )


def _check_dying(dying: int, *, at_risk: int) -> None:
    """Refuse hazards of a tie that no patients have: those who die are among those at risk, who have some."""
    if not 0 <= dying <= at_risk or at_risk == 0:
        raise ProtocolError(
            "The opened sums hold hazards that no patients have.", action="Ask each hospital which version it runs."
        )
