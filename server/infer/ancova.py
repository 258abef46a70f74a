"""Moments become an analysis of covariance: equal slopes tested, group means adjusted to equal covariates, and contrasts."""

import itertools
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from scipy import stats

from common import terms
from common.errors import NotEstimable
from common.moments import Moments
from common.study import Ancova as Wanted
from common.study import Study
from server.infer import adjust, anova, studentized
from server.infer.linear import Form, Solved, solve

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedMean:
    """The mean that a group would have if its covariates had the means of all patients."""

    level: str
    mean: float
    standard_error: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A difference of two adjusted means, second - first.

    `ci_low`, `ci_high` and `p` are of this contrast alone; `p_holm` and `p_tukey` hold for all of them. `standardised` is in
    residual standard deviations.
    """

    first: str
    second: str
    difference: float
    standard_error: float
    ci_low: float
    ci_high: float
    t: float
    p: float
    p_holm: float
    p_tukey: float
    standardised: float
    standardised_low: float
    standardised_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancova:
    """An analysis of covariance: `table` is of type II with common slopes.

    `slopes` tests whether the slopes differ between groups, all covariates together; where they do, adjusted means depend on
    the covariates' value at which they are taken. It is None where `slopes_diagnosis` says why it could not be tested.
    """

    formula: str
    outcome: str
    factor: str
    n: int
    df: int
    sigma: float
    table: anova.Anova
    slopes: anova.Row | None
    slopes_diagnosis: str
    covariate_means: dict[str, float]
    means: tuple[AdjustedMean, ...]
    contrasts: tuple[Contrast, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def analyse(moments: Moments, *, study: Study, wanted: Wanted) -> Ancova:
    """Compare the adjusted means of the groups of `wanted`.

    Guarantee: exact rationals until each figure is rounded once; nothing but the study's one Gram is used.
    Raises NotEstimable as anova.analyse does; only the slopes' own diagnosis is kept in the result.
    """
    model = study.model(wanted.formula)
    solved = solve(moments, outcome=wanted.outcome, predictors=model.predictors)
    levels = study.variable(wanted.factor).levels
    columns = [column.name for column in terms.indicators(wanted.factor, levels=levels)]
    forms: list[Form] = [{name: Fraction(name == held) for name in columns} for held in ("", *columns)]
    slopes, diagnosis = _slopes(moments, study=study, wanted=wanted)
    return Ancova(
        formula=model.formula,
        outcome=wanted.outcome,
        factor=wanted.factor,
        n=solved.n,
        df=solved.df,
        sigma=math.sqrt(solved.variance),
        table=anova.analyse(moments, model=model, kind="II"),
        slopes=slopes,
        slopes_diagnosis=diagnosis,
        covariate_means={name: float(moments.mean(name)) for name in wanted.covariates},
        means=tuple(_mean(solved, level=level, form=form, moments=moments) for level, form in zip(levels, forms, strict=True)),
        contrasts=_contrasts(solved, levels=levels, forms=forms),
    )


def _slopes(moments: Moments, *, study: Study, wanted: Wanted) -> tuple[anova.Row | None, str]:
    model = study.model(wanted.formula_of_slopes)
    try:
        solved = solve(moments, outcome=wanted.outcome, predictors=model.predictors)
    except NotEstimable as error:
        return None, f"{error.term}: {error.diagnosis}"
    forms: list[Form] = [{column.name: Fraction(1)} for term in model.terms if len(term.atoms) == 2 for column in term.columns]
    square = solved.explained(forms)
    return anova.row(f"slopes between {wanted.factor}", square=square, q=len(forms), solved=solved), ""


def _mean(solved: Solved, *, level: str, form: Form, moments: Moments) -> AdjustedMean:
    away = {name: weight - moments.mean(name) for name, weight in form.items()}
    value, spread = solved.form(away)
    mean = float(solved.mean[-1] + value)
    error = math.sqrt(solved.variance * (Fraction(1, solved.n) + spread))
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, solved.df)) * error
    return AdjustedMean(level=level, mean=mean, standard_error=error, ci_low=mean - reach, ci_high=mean + reach)


def _contrasts(solved: Solved, *, levels: tuple[str, ...], forms: list[Form]) -> tuple[Contrast, ...]:
    sigma = math.sqrt(solved.variance)
    critical = float(stats.t.isf((1 - CONFIDENCE) / 2, solved.df))
    rows = []
    for (first, one), (second, other) in itertools.combinations(zip(levels, forms, strict=True), 2):
        value, spread = solved.form({name: other[name] - one[name] for name in one})
        difference, error = float(value), math.sqrt(solved.variance * spread)
        rows.append((first, second, difference, error, difference / error))
    single = [2 * float(stats.t.sf(abs(row[-1]), solved.df)) for row in rows]
    return tuple(
        Contrast(
            first=first,
            second=second,
            difference=difference,
            standard_error=error,
            ci_low=difference - critical * error,
            ci_high=difference + critical * error,
            t=t,
            p=p,
            p_holm=float(p_holm),
            p_tukey=studentized.sf(abs(t) * math.sqrt(2), k=len(levels), df=solved.df),
            standardised=difference / sigma,
            standardised_low=(difference - critical * error) / sigma,
            standardised_high=(difference + critical * error) / sigma,
        )
        for (first, second, difference, error, t), p, p_holm in zip(rows, single, adjust.holm(single), strict=True)
    )
