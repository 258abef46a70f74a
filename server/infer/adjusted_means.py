"""Means of groups adjusted for everything else in a model (least-squares means), with all contrasts between them.

The reference grid: every declared level of every factor, each covariate at the mean of its column over all patients. The mean
of a cell averages the grid over the levels of the other factors, each with the same weight, whatever the numbers of patients.
A transformed covariate is at the mean of its transformed values; a product of covariates is the product of their means.
Source: Searle, Speed and Milliken 1980.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from scipy import stats

from common.errors import NotEstimable
from common.moments import Moments
from common.terms import Column, Model, Term, column
from server.infer import adjust, studentized
from server.infer.linear import Form, Solved, solve

CONFIDENCE = 0.95
CELLS_MOST = 32  # 496 contrasts


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedMean:
    """The mean that a group would have on the reference grid; `level` of an interaction names one level of each factor."""

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
class AdjustedMeans:
    """The adjusted means of one term of factors, and all pairs of them; `covariates` are the columns held at their means."""

    term: str
    covariates: tuple[str, ...]
    means: tuple[AdjustedMean, ...]
    contrasts: tuple[Contrast, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def terms_of(model: Model) -> tuple[Term, ...]:
    """Return the terms of a model that have adjusted means: those of factors alone."""
    return tuple(term for term in model.terms if {atom.variable for atom in term.atoms} <= term.factors)


def of_term(moments: Moments, *, model: Model, term: Term) -> AdjustedMeans:
    """Return the adjusted means of a term of factors, and their contrasts.

    Guarantee: exact rationals until each figure is rounded once; nothing but the Gram is used.
    Raises NotEstimable as `solve` does, also for a declared level or a cell of the model that no patient has; "too many cells"
    above 32.
    """
    names = [atom.variable for atom in term.atoms]
    cells = list(itertools.product(*(model.levels[name] for name in names)))
    if len(cells) > CELLS_MOST:
        raise NotEstimable("too many cells", term=term.name, action="Ask for a term with fewer levels.")
    solved = solve(moments, outcome=model.outcome.name, predictors=model.predictors)
    columns = [held for one in model.terms for held in one.columns]
    forms: list[Form] = [
        {held.name: _weight(held, cell=dict(zip(names, cell, strict=True)), model=model, moments=moments) for held in columns}
        for cell in cells
    ]
    levels = [", ".join(cell) for cell in cells]
    return AdjustedMeans(
        term=term.name,
        covariates=tuple(dict.fromkeys(str(piece) for held in columns for piece in held.pieces if not piece.level)),
        means=tuple(mean(solved, level=level, form=form, moments=moments) for level, form in zip(levels, forms, strict=True)),
        contrasts=contrasts(solved, levels=levels, forms=forms),
    )


def mean(solved: Solved, *, level: str, form: Form, moments: Moments) -> AdjustedMean:
    """Return the prediction where predictors have the values of `form`; those it does not name are at their means."""
    value, spread = solved.form({name: weight - moments.mean(name) for name, weight in form.items()})
    predicted = float(solved.mean[-1] + value)
    error = math.sqrt(solved.variance * (Fraction(1, solved.n) + spread))
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, solved.df)) * error
    return AdjustedMean(level=level, mean=predicted, standard_error=error, ci_low=predicted - reach, ci_high=predicted + reach)


def contrasts(solved: Solved, *, levels: Sequence[str], forms: Sequence[Form]) -> tuple[Contrast, ...]:
    """Return all pairs of predictions, second - first, adjusted for their number by Holm and by Tukey and Kramer."""
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


def _weight(held: Column, *, cell: Mapping[str, str], model: Model, moments: Moments) -> Fraction:
    """Return a column's value in a cell, averaged over the levels of the factors that the cell does not fix."""
    value = Fraction(1)
    for piece in held.pieces:
        if not piece.level:
            value *= moments.mean(column(piece).name)
        elif piece.variable in cell:
            value *= piece.level == cell[piece.variable]
        else:
            value /= len(model.levels[piece.variable])
    return value
