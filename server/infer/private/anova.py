"""A noisy Gram becomes analyses of variance, types I, II and III, each F by the bootstrap (bootstrap.py)."""

from typing import Any

from common.noisy_moments import NoisyMoments
from common.terms import Column, Model, Term
from server.infer.private import bootstrap, least_squares
from server.infer.private.bootstrap import Hypothesis

KINDS = ("I", "II", "III")


def analyse(noisy: NoisyMoments, *, model: Model) -> dict[str, dict[str, Any]]:
    """Return {"I", "II", "III"}: each {"formula", "outcome", "kind", "n", "df", "rows"}, rows as bootstrap.f_tests makes them.

    I: each term beside those before it. II: beside all terms that do not contain it. III: beside all terms, main effects
    averaged over the levels of the factors in their interactions, as the exact side has it (server/infer/anova.py).
    Equal hypotheses of the types are tested once. Raises NotEstimable "too noisy", as least_squares.fit does.
    """
    fitted = least_squares.fit(noisy, outcome=model.outcome.name, predictors=model.predictors)
    scale = dict(zip(fitted.predictors, fitted.half[1:].tolist(), strict=True))
    wanted = {kind: [_hypothesis(term, model=model, kind=kind, scale=scale) for term in model.terms] for kind in KINDS}
    distinct = list({repr(one): one for made in wanted.values() for one in made}.values())
    tested = dict(zip(map(repr, distinct), bootstrap.f_tests(noisy, fitted=fitted, hypotheses=distinct), strict=True))
    return {
        kind: {
            "formula": model.formula,
            "outcome": model.outcome.name,
            "kind": kind,
            "n": round(fitted.n),
            "df": fitted.df,
            "rows": [dict(tested[repr(one)]) for one in made],
        }
        for kind, made in wanted.items()
    }


def _hypothesis(term: Term, *, model: Model, kind: str, scale: dict[str, float]) -> Hypothesis:
    if kind == "I":
        held = model.terms[: model.terms.index(term) + 1]
    elif kind == "II":
        held = tuple(one for one in model.terms if one == term or not set(term.atoms) <= set(one.atoms))
    else:
        held = model.terms
    names = tuple(column.name for one in held for column in one.columns)
    averaged = [_averaged(column, term=term, model=model) if kind == "III" else {column.name: 1.0} for column in term.columns]
    forms = tuple({name: weight / scale[name] for name, weight in form.items()} for form in averaged)
    return Hypothesis(name=term.name, predictors=names, forms=forms)


def _averaged(column: Column, *, term: Term, model: Model) -> dict[str, float]:
    """Return the effect of a column averaged over the levels of the factors that interact with it: weights of coefficients."""
    form = {column.name: 1.0}
    for other in model.terms:
        extra = [atom.variable for atom in other.atoms if atom not in term.atoms]
        if set(term.atoms) < set(other.atoms) and set(extra) <= other.factors:
            weight = 1.0
            for name in extra:
                weight /= len(model.levels[name])
            form |= {held.name: weight for held in other.columns if set(column.pieces) <= set(held.pieces)}
    return form
