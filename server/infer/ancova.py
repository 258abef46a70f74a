"""Moments become an analysis of covariance: equal slopes tested, group means adjusted to equal covariates, and contrasts."""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from common import terms
from common.errors import NotEstimable
from common.moments import Moments
from common.study import Study
from common.wanted import Ancova as Wanted
from server.infer import anova
from server.infer.adjusted_means import AdjustedMean, Contrast, contrasts, mean
from server.infer.linear import Form, solve


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
        means=tuple(mean(solved, level=level, form=form, moments=moments) for level, form in zip(levels, forms, strict=True)),
        contrasts=contrasts(solved, levels=levels, forms=forms),
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
