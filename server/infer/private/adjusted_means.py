"""A noisy Gram becomes means of groups adjusted for everything else in a model, with all pairs of them; noise counted.

The reference grid is the exact side's (server/infer/adjusted_means.py), covariates being at their noisy means: an interval is
for the mean at that point, whatever noise is in it.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.noisy_moments import NoisyMoments
from common.terms import Column, Model, Piece, Term, column
from server.infer import adjust
from server.infer.adjusted_means import CELLS_MOST, terms_of
from server.infer.private import least_squares, simultaneous
from server.infer.private.least_squares import Estimate, Fit

Cell = tuple[str, Mapping[str, float]]  # its name, and the value of every column in it


def of_model(noisy: NoisyMoments, *, model: Model) -> list[dict[str, Any]]:
    """Return {"term", "means", "pairs"} of each term of factors alone, as `compare` makes them.

    A term with more than 32 cells is {"term", "diagnosis"}. Raises NotEstimable "too noisy", as least_squares.fit does.
    """
    wanted = [(term, _cells(noisy, model=model, term=term)) for term in terms_of(model)]
    if not wanted:
        return []
    fitted = least_squares.fit(noisy, outcome=model.outcome.name, predictors=model.predictors)
    small = [(term.name, cells) for term, cells in wanted if len(cells) <= CELLS_MOST]
    made = dict(
        zip((name for name, _ in small), compare(noisy, fitted=fitted, families=[cells for _, cells in small]), strict=True)
    )
    return [{"term": term.name, **made.get(term.name, {"diagnosis": "too many cells"})} for term, _ in wanted]


def compare(noisy: NoisyMoments, *, fitted: Fit, families: Sequence[Sequence[Cell]]) -> list[dict[str, Any]]:
    """Return {"means", "pairs"} of each family of cells.

    Means: level, mean, standard_error, ci_low, ci_high, width_ratio. Pairs: first, second, difference with an interval of each
    alone, t, p, p_holm, and p_tukey, tukey_low, tukey_high that hold for all pairs of the family together (simultaneous.py).
    """
    differences = [
        [{name: other[name] - one[name] for name in one} for (_, one), (_, other) in itertools.combinations(cells, 2)]
        for cells in families
    ]
    forms = [np.stack([fitted.row(one) for one in weights]) for weights in differences]
    drawn = simultaneous.largest(noisy, fitted=fitted, families=forms) if forms else []
    return [
        {
            "means": [{"level": level, **_told(fitted.form(at, intercept=1.0), of="mean")} for level, at in cells],
            "pairs": _pairs([level for level, _ in cells], made=[fitted.form(one) for one in weights], drawn=one_drawn),
        }
        for cells, weights, one_drawn in zip(families, differences, drawn, strict=True)
    ]


def mean_of(noisy: NoisyMoments, *, name: str) -> float:
    """Return the noisy mean of a column in its unit."""
    place = noisy.columns.index(name)
    return noisy.centre[place] + noisy.half[place] * float(noisy.matrix[0, place + 1] / noisy.matrix[0, 0])


def _pairs(levels: Sequence[str], *, made: Sequence[Estimate], drawn: simultaneous.Float) -> list[dict[str, Any]]:
    together, critical = simultaneous.adjusted([one.t for one in made], drawn=drawn)
    alone, rows = adjust.holm([one.p for one in made]).tolist(), []
    for (first, second), one, p_holm, p_tukey in zip(itertools.combinations(levels, 2), made, alone, together, strict=True):
        row = {"first": first, "second": second, **_told(one, of="difference"), "t": one.t, "p": one.p, "p_holm": p_holm}
        row |= {"p_tukey": p_tukey, "tukey_low": None, "tukey_high": None}
        if critical is not None:
            reach = critical * one.standard_error
            row |= {"tukey_low": one.value - reach, "tukey_high": one.value + reach}
        rows.append(row)
    return rows


def _cells(noisy: NoisyMoments, *, model: Model, term: Term) -> list[Cell]:
    names = [atom.variable for atom in term.atoms]
    columns = [held for one in model.terms for held in one.columns]
    cells = itertools.islice(itertools.product(*(model.levels[name] for name in names)), CELLS_MOST + 1)
    return [
        (
            ", ".join(cell),
            {held.name: _value(held, cell=dict(zip(names, cell, strict=True)), model=model, noisy=noisy) for held in columns},
        )
        for cell in cells
    ]


def _value(held: Column, *, cell: Mapping[str, str], model: Model, noisy: NoisyMoments) -> float:
    """Return a column's value in a cell, averaged over the levels of the factors that the cell does not fix."""
    value = 1.0
    for piece in held.pieces:
        value *= _piece(piece, cell=cell, model=model, noisy=noisy)
    return value


def _piece(piece: Piece, *, cell: Mapping[str, str], model: Model, noisy: NoisyMoments) -> float:
    if not piece.level:
        return mean_of(noisy, name=column(piece).name)
    if piece.variable in cell:
        return float(piece.level == cell[piece.variable])
    return 1 / len(model.levels[piece.variable])


def _told(one: Estimate, *, of: str) -> dict[str, Any]:
    return {
        of: one.value,
        "standard_error": one.standard_error,
        "ci_low": one.value - one.reach,
        "ci_high": one.value + one.reach,
        "width_ratio": one.width_ratio,
    }
