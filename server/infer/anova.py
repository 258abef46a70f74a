"""Moments become analysis of variance tables, one-way to k-way, types I, II and III: comparisons of exact sums of squares."""

import itertools
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from scipy import stats

from common.moments import Moments
from common.terms import Column, Model, Piece, Term
from server.infer import noncentral
from server.infer.linear import Form, Solved, sequence, solve

Kind = Literal["I", "II", "III"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One term: its sum of squares, F test, and the proportion of variance that it explains beside the other terms.

    `eta_squared` is partial and biased upwards, `omega_squared` partial and nearly unbiased (negative below F = 1); the
    interval is for the proportion that both estimate.
    """

    term: str
    df: int
    sum_of_squares: float
    mean_square: float
    f: float
    p: float
    eta_squared: float
    omega_squared: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Anova:
    """An analysis of variance; the last three figures are of the residuals."""

    formula: str
    outcome: str
    kind: Kind
    rows: tuple[Row, ...]
    n: int
    df: int
    sum_of_squares: float
    mean_square: float

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def analyse(moments: Moments, *, model: Model, kind: Kind) -> Anova:
    """Return the analysis of variance of a model.

    I: each term beside those before it. II: beside all terms that do not contain it. III: beside all terms, with factors coded
    to sum to zero, covariates at zero, so that a main effect is one averaged over the levels of the other factors.

    Guarantee: sums of squares are those of the integer table, rounded once; tails are `sf`.
    Raises NotEstimable ("too few rows", "constant": also a declared level or cell that no patient has, "aliased",
    "perfect fit") with the column's name.
    Source: reference statistics.md section 2; type III as the hypothesis of the sum-to-zero parameters (Speed, Hocking and
    Hackney 1978).
    """
    solved = solve(moments, outcome=model.outcome.name, predictors=model.predictors)
    squares = _squares(moments, model=model, kind=kind, solved=solved)
    return Anova(
        formula=model.formula,
        outcome=model.outcome.name,
        kind=kind,
        rows=tuple(
            row(term.name, square=square, q=len(term.columns), solved=solved)
            for term, square in zip(model.terms, squares, strict=True)
        ),
        n=solved.n,
        df=solved.df,
        sum_of_squares=float(solved.residual),
        mean_square=float(solved.variance),
    )


def _squares(moments: Moments, *, model: Model, kind: Kind, solved: Solved) -> list[Fraction]:
    if kind == "I":
        return _sequential(moments, model=model)
    if kind == "II":
        return _beside(moments, model=model, solved=solved)
    return [solved.explained(_averaged(term, model=model)) for term in model.terms]


def row(name: str, *, square: Fraction, q: int, solved: Solved) -> Row:
    """Return the F test of a sum of squares with `q` degrees of freedom against the residuals of `solved`."""
    f, df = float(square / q / solved.variance), solved.df
    low, high = noncentral.explained(f, q=q, df=df)
    return Row(
        term=name,
        df=q,
        sum_of_squares=float(square),
        mean_square=float(square / q),
        f=f,
        p=float(stats.f.sf(f, q, df)),
        eta_squared=float(square / (square + solved.residual)),
        omega_squared=float((square - q * solved.variance) / (square + (solved.n - q) * solved.variance)),
        ci_low=low,
        ci_high=high,
    )


def _sequential(moments: Moments, *, model: Model) -> list[Fraction]:
    left = sequence(moments, outcome=model.outcome.name, predictors=model.predictors)
    ends = [0, *itertools.accumulate(len(term.columns) for term in model.terms)]
    return [left[before] - left[after] for before, after in itertools.pairwise(ends)]


def _beside(moments: Moments, *, model: Model, solved: Solved) -> list[Fraction]:
    """Return each term's sum of squares beside all terms that do not contain it."""
    fits: dict[tuple[str, ...], Solved | None] = {model.predictors: solved}
    squares = []
    for term in model.terms:
        held = [other for other in model.terms if other == term or not set(term.atoms) <= set(other.atoms)]
        names = tuple(column.name for one in held for column in one.columns)
        fit = fits.setdefault(names, None) or solve(moments, outcome=model.outcome.name, predictors=names)
        fits[names] = fit
        squares.append(fit.explained([{column.name: Fraction(1)} for column in term.columns]))
    return squares


def _averaged(term: Term, *, model: Model) -> list[Form]:
    """Return, for each column of a term, its effect averaged over the levels of the factors that interact with it."""
    forms: list[Form] = []
    for column in term.columns:
        form = {column.name: Fraction(1)}
        for other in model.terms:
            extra = [atom.variable for atom in other.atoms if atom not in term.atoms]
            if set(term.atoms) < set(other.atoms) and set(extra) <= other.factors:
                weight = Fraction(1, math.prod(len(model.levels[name]) for name in extra))
                form |= {held.name: weight for held in other.columns if _within(column, held)}
        forms.append(form)
    return forms


def _within(column: Column, other: Column) -> bool:
    pieces: set[Piece] = set(column.pieces)
    return pieces <= set(other.pieces)
