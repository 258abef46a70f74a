"""Hospitals' own fits, combined: equal effects, heterogeneity, random effects, and the estimates of those that show them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from common import estimates
from common.errors import HospitalMissing, NotEstimable, ProtocolError
from common.estimates import Shown, Weighted
from common.query import Analysis, ask, centre_half
from server.infer import meta
from server.infer.meta import Heterogeneity
from server.infer.robust import Spec

CONFIDENCE = 0.95
EQUAL, RANDOM, HARTUNG_KNAPP = "equal effects", "random effects", "random effects, Hartung-Knapp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """One coefficient over all hospitals. `df` is None where the statistic is normal; `method` says how hospitals were weighed.

    `prediction` is where a new hospital's coefficient lies with 95 %; None but for Hartung and Knapp's.
    """

    term: str
    method: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float
    statistic: float
    df: int | None
    p: float
    prediction_low: float | None = None
    prediction_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How much hospitals differ in one coefficient: Cochran's Q, I squared with its interval, tau squared."""

    term: str
    hospitals: int
    q: float
    df: int
    p: float
    i_squared: float
    i_squared_low: float
    i_squared_high: float
    tau_squared: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHospital:
    """A coefficient of one hospital that shows it; `place` is its position (from 0) among the analysis' hospitals."""

    place: int
    n: int
    term: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaAnalysis:
    """`n` patients with a value in every column; `hospitals` had a fit of their own (an opened count, not which).

    `random_absent` and `shown_absent` say why there are no random effects or no hospitals' rows; empty where there are.
    """

    outcome: str
    n: int
    hospitals: int
    rows: tuple[Combined, ...]
    heterogeneity: tuple[Spread, ...]
    by_hospital: tuple[OneHospital, ...]
    random_absent: str
    shown_absent: str

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec, *, by_hospital: bool) -> Analysis[MetaAnalysis]:
    """Ask for the weighted sums, again with the variance between hospitals, and last for the rows that may be shown.

    A refusal of the second or third sum leaves that part out. Raises NotEstimable "too few hospitals" below two with a fit.
    Source: DerSimonian and Laird 1986; Hartung and Knapp 2001; Higgins and Thompson 2002.
    """
    names = [one.name for one in spec.predictors]
    p = len(names)
    outcome = [spec.outcome.name]
    n, first = estimates.unpack((yield ask("meta", responses=outcome, predictors=names)), p=p)
    if first[0].hospitals < 2:
        raise NotEstimable("too few hospitals", term=spec.outcome.name, action="Two hospitals need a fit of their own.")
    units = _units(spec)
    spread = [meta.heterogeneity(one) for one in first]
    rows = [_equal(name, found, unit=unit) for name, found, unit in zip(names, spread, units, strict=True)]
    random_absent = shown_absent = ""
    try:
        tau = [one.tau_squared for one in spread]
        again, second = estimates.unpack_again(
            (yield ask("meta_random", responses=outcome, predictors=names, numbers={"tau": tau})), p=p
        )
        if again != n or second[0].hospitals != first[0].hospitals:
            raise ProtocolError("The rows changed between two sums.", action="Run the analysis again.")
        for name, one, extra, unit in zip(names, second, tau, units, strict=True):
            rows += _random(name, one, tau_squared=extra, unit=unit)
    except HospitalMissing:
        random_absent = "refused: too few hospitals hide one another's estimates"
    shown: list[Shown] = []
    if by_hospital:
        try:
            shown = estimates.unpack_shown((yield ask("meta_rows", responses=outcome, predictors=names)), p=p)
        except HospitalMissing:
            shown_absent = "refused"
    return MetaAnalysis(
        outcome=spec.outcome.name,
        n=n,
        hospitals=first[0].hospitals,
        rows=tuple(sorted(rows, key=lambda row: names.index(row.term))),
        heterogeneity=tuple(_spread(name, one, unit=unit) for name, one, unit in zip(names, spread, units, strict=True)),
        by_hospital=tuple(_one(one, at, names=names, units=units) for at in range(p) for one in shown),
        random_absent=random_absent,
        shown_absent=shown_absent,
    )


def _units(spec: Spec) -> list[float]:
    """Return what a coefficient of scaled columns is multiplied by: powers of two, so nothing is rounded."""
    _, outcome = centre_half(spec.outcome.lower, spec.outcome.upper)
    return [outcome / centre_half(one.lower, one.upper)[1] for one in spec.predictors]


def _equal(term: str, found: Heterogeneity, *, unit: float) -> Combined:
    return _normal(term, EQUAL, found.fixed_effect * unit, found.fixed_standard_error * unit)


def _random(term: str, sums: Weighted, *, tau_squared: float, unit: float) -> list[Combined]:
    wald = _normal(term, RANDOM, float(sums.first / sums.weight) * unit, float(1 / math.sqrt(sums.weight)) * unit)
    try:
        found = meta.random_effects(sums, tau_squared=tau_squared)
    except NotEstimable:  # all hospitals' estimates are the same
        return [wald]
    ends = [value * unit for value in (found.prediction_low, found.prediction_high)]
    knapp = Combined(
        term=term,
        method=HARTUNG_KNAPP,
        estimate=found.estimate * unit,
        standard_error=found.standard_error * unit,
        ci_low=found.ci_low * unit,
        ci_high=found.ci_high * unit,
        statistic=found.t,
        df=found.df,
        p=found.p,
        prediction_low=None if math.isnan(ends[0]) else ends[0],
        prediction_high=None if math.isnan(ends[1]) else ends[1],
    )
    return [wald, knapp]


def _normal(term: str, method: str, estimate: float, error: float) -> Combined:
    reach = float(stats.norm.isf((1 - CONFIDENCE) / 2)) * error
    return Combined(
        term=term,
        method=method,
        estimate=estimate,
        standard_error=error,
        ci_low=estimate - reach,
        ci_high=estimate + reach,
        statistic=estimate / error,
        df=None,
        p=2 * float(stats.norm.sf(abs(estimate / error))),
    )


def _spread(term: str, found: Heterogeneity, *, unit: float) -> Spread:
    return Spread(
        term=term,
        hospitals=found.hospitals,
        q=found.q,
        df=found.df,
        p=found.p,
        i_squared=found.i_squared,
        i_squared_low=found.i_squared_low,
        i_squared_high=found.i_squared_high,
        tau_squared=found.tau_squared * unit**2,
    )


def _one(one: Shown, at: int, *, names: Sequence[str], units: Sequence[float]) -> OneHospital:
    """Return a hospital's row, with t on its own residual degrees of freedom."""
    estimate = one.estimates[at].value * units[at]
    error = units[at] / math.sqrt(one.estimates[at].weight)
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, one.n - len(names) - 1)) * error
    return OneHospital(
        place=one.at,
        n=one.n,
        term=names[at],
        estimate=estimate,
        standard_error=error,
        ci_low=estimate - reach,
        ci_high=estimate + reach,
    )
