"""Logistic regression by Newton sums, with Firth's penalty where the classes are separated."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from common import fixed_point
from common.errors import ConfigError, NotEstimable, ProtocolError
from common.query import Analysis, Column, Query, ask
from server.infer import newton, wald
from server.infer.newton import Evaluation, Vector
from server.infer.wald import Coefficient

INTERCEPT = "(intercept)"
EVENTS_LEAST = 5
FIRTH_STEPS_MOST = 100
PROFILE_STEP_SMALL = 1e-7  # of a standard error: the likelihood is then right to its square


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Logit P(outcome = 1) = intercept + predictors; raises ConfigError on a repeated name or no predictor."""

    outcome: str
    predictors: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [self.outcome, *(column.name for column in self.predictors)]
        if len(set(names)) != len(names) or not self.predictors:
            raise ConfigError("A model names each column once, and at least one predictor.", action="Mend the study.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """A fit: odds ratios are `ratio` of each row. `method` says whether Firth's penalty was needed and what its p values are.

    likelihood: rows' p is Wald's, `chi2` the likelihood ratio against the intercept alone. firth: rows' p is the penalised
    profile likelihood ratio, intervals are Wald's, `chi2` compares with all slopes at zero; `log_likelihood` is penalised, so
    that it depends on the columns' units, and there is no `pseudo_r_squared`.
    """

    outcome: str
    method: Literal["likelihood", "firth"]
    rows: tuple[Coefficient, ...]
    n: int
    events: int
    log_likelihood: float
    chi2: float
    chi2_df: int
    chi2_p: float
    pseudo_r_squared: float | None
    queries: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Logistic]:
    """Fit by Newton; where the likelihood has no maximum, fit again with Firth's penalty.

    Raises NotEstimable: "too few events" below 5 in a class, "too few rows", "constant", "aliased", "no convergence".
    Source: McCullagh, Nelder 1989; Firth 1993; Heinze, Schemper 2002 (profile tests).
    """
    try:
        best = yield from newton.maximise(
            lambda b: _logistic(spec, b),
            start=np.zeros(len(spec.predictors) + 1),
            names=_names(spec),
            reader=lambda _, sums: newton.read(sums, counts=2, size=len(spec.predictors) + 1),
            check=lambda first: _check(spec, first),
        )
    except NotEstimable as error:
        if error.diagnosis != "separated":
            raise
        return (yield from firth(spec))
    n, events = best.last.counts
    transform = newton.unscaled(spec.predictors, intercept=True)
    null = events * math.log(events / n) + (n - events) * math.log((n - events) / n)
    return _result(
        spec,
        method="likelihood",
        rows=wald.table(
            _names(spec), estimates=transform @ best.coefficients, covariance=transform @ best.covariance @ transform.T
        ),
        counts=(n, events),
        likelihood=best.last.likelihood,
        null=null,
        queries=best.evaluations,
    )


def firth(spec: Spec) -> Analysis[Logistic]:
    """Fit with Firth's penalty half log det information; two sums a step, and one profile fit a coefficient for its p."""
    names, size = _names(spec), len(spec.predictors) + 1
    transform = newton.unscaled(spec.predictors, intercept=True)
    full = yield from _climb(spec, constraints=np.zeros((0, size)), start=np.zeros(size), step_small=newton.STEP_SMALLEST)
    asked = full.asked
    tests: list[float] = []
    for row in transform:
        along = full.covariance @ row
        near = full.at - along * (row @ full.at) / (row @ along)  # where a quadratic likelihood would have it
        fixed = yield from _climb(spec, constraints=row[None, :], start=near, step_small=PROFILE_STEP_SMALL)
        asked += fixed.asked
        tests.append(float(stats.chi2.sf(max(0.0, 2 * (full.penalised - fixed.penalised)), 1)))
    slopes = np.eye(size)[1:]
    null = yield from _climb(spec, constraints=slopes, start=np.zeros(size), step_small=PROFILE_STEP_SMALL)
    estimates, covariance = transform @ full.at, transform @ full.covariance @ transform.T
    units = float(np.linalg.slogdet(transform)[1])  # the penalty is that of the columns as they are declared, not as scaled
    return _result(
        spec,
        method="firth",
        rows=tuple(
            wald.coefficient(name, estimate=float(estimates[i]), error=math.sqrt(covariance[i, i]), p=tests[i])
            for i, name in enumerate(names)
        ),
        counts=(full.counts[0], full.counts[1]),
        likelihood=full.penalised - units,
        null=null.penalised - units,
        queries=asked + null.asked,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Climbed:
    at: Vector
    covariance: Vector
    penalised: float
    counts: tuple[int, ...]
    asked: int


def _climb(spec: Spec, *, constraints: Vector, start: Vector, step_small: float) -> Analysis[_Climbed]:
    """Maximise the penalised likelihood where `constraints` times the point is zero; the penalty stays the full one.

    Fisher scoring with Anderson's acceleration: the score of the penalty is exact, its curvature is learnt from earlier steps.
    """
    names, size = _names(spec), len(start)
    free = np.linalg.svd(constraints)[2][len(constraints) :].T if len(constraints) else np.eye(size)
    at, asked, before, origin, relative, plain = start, 0, -math.inf, start, math.inf, np.zeros(size)
    past: list[tuple[Vector, Vector]] = []  # points and their steps
    for _ in range(FIRTH_STEPS_MOST):
        now = newton.read((yield _logistic(spec, at)), counts=2, size=size)
        asked += 1
        if asked == 1:
            _check(spec, now)
        scale = 1 / np.sqrt(np.diag(now.information))
        log_det = float(np.linalg.slogdet(now.information * np.outer(scale, scale))[1]) - 2 * float(np.log(scale).sum())
        penalised = now.likelihood + log_det / 2
        if not penalised >= before - 1e-9 * (1 + abs(before)) and float(np.max(np.abs(at - origin))) > 0:
            at, plain, past = origin + plain, plain / 2, []  # too far: the plain step, then half of it
            continue
        covariance = newton.invert(now.information, names=names, diagnosis="aliased")
        inverse = covariance[np.triu_indices(size)]
        answer = yield ask(
            "firth", responses=[spec.outcome], predictors=_columns(spec), numbers={"coefficients": at, "inverse": inverse}
        )
        asked += 1
        score = fixed_point.read(answer)[1:]
        if fixed_point.counts(answer[:1])[0] != now.counts[0]:
            raise ProtocolError("The rows changed between two sums.", action="Run the analysis again.")
        step = free @ newton.solve(free.T @ now.information @ free, free.T @ score)
        errors = np.sqrt(np.diag(covariance))
        last, relative = relative, float(np.max(np.abs(step) / errors))
        if relative < step_small or (relative < 1e-9 and relative > last / 2):
            return _Climbed(at=at, covariance=covariance, penalised=penalised, counts=now.counts, asked=asked)
        past = [*past, (at, step)][-(free.shape[1] + 1) :]
        before, origin = penalised, at
        plain = step if len(past) > 1 else step / 2
        at = at + _accelerated(past, errors=errors)
    raise NotEstimable("no convergence", term=spec.outcome, action="Leave out predictors.")


def _accelerated(past: list[tuple[Vector, Vector]], *, errors: Vector) -> Vector:
    """Return the next step from the last points and their steps. Source: Anderson 1965; Walker, Ni 2011."""
    step = past[-1][1]
    if len(past) == 1:
        return step
    points = np.stack([later[0] - earlier[0] for earlier, later in itertools.pairwise(past)], axis=1)
    steps = np.stack([later[1] - earlier[1] for earlier, later in itertools.pairwise(past)], axis=1)
    share = np.linalg.lstsq(steps / errors[:, None], step / errors, rcond=1e-8)[0]
    result: Vector = step - (points + steps) @ share
    return result


def _logistic(spec: Spec, b: Vector) -> Query:
    return ask("logistic", responses=[spec.outcome], predictors=_columns(spec), numbers={"coefficients": b})


def _columns(spec: Spec) -> tuple[str, ...]:
    return tuple(column.name for column in spec.predictors)


def _names(spec: Spec) -> Sequence[str]:
    return (INTERCEPT, *_columns(spec))


def _check(spec: Spec, first: Evaluation) -> None:
    n, events = first.counts
    if n <= len(spec.predictors) + 1:
        raise NotEstimable("too few rows", term=spec.outcome, action="Leave out predictors.")
    if min(events, n - events) == 0:
        raise NotEstimable("constant", term=spec.outcome, action="Every patient has the same outcome.")
    if min(events, n - events) < EVENTS_LEAST:
        raise NotEstimable("too few events", term=spec.outcome, action=f"Each class needs at least {EVENTS_LEAST} patients.")


def _result(
    spec: Spec,
    *,
    method: Literal["likelihood", "firth"],
    rows: tuple[Coefficient, ...],
    counts: tuple[int, int],
    likelihood: float,
    null: float,
    queries: int,
) -> Logistic:
    chi2 = max(0.0, 2 * (likelihood - null))
    return Logistic(
        outcome=spec.outcome,
        method=method,
        rows=rows,
        n=counts[0],
        events=counts[1],
        log_likelihood=likelihood,
        chi2=chi2,
        chi2_df=len(spec.predictors),
        chi2_p=float(stats.chi2.sf(chi2, len(spec.predictors))),
        pseudo_r_squared=None if method == "firth" else 1 - likelihood / null,
        queries=queries,
    )
