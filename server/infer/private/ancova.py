"""A noisy Gram becomes an analysis of covariance: adjusted means, all pairs of them, and a test whether slopes are equal."""

import itertools
from typing import Any

import numpy as np

from common import terms
from common.noisy_moments import NoisyMoments
from common.study import Study
from common.wanted import Ancova
from server.infer import adjust
from server.infer.private import bootstrap, least_squares, simultaneous
from server.infer.private.bootstrap import Hypothesis
from server.infer.private.least_squares import Estimate, Fit


def adjusted(noisy: NoisyMoments, *, study: Study, wanted: Ancova) -> dict[str, Any]:
    """Return {"formula", "outcome", "factor", "n", "df", "rows", "covariate_means", "means", "pairs"}: one variance for all.

    `rows`: the factor and each covariate. Means are at the covariates' noisy means, `covariate_means`; an interval is for the
    mean at the values told, whatever noise is in them. `pairs`: p, an interval of each alone, p_holm, and p_tukey with an
    interval that hold for all together (simultaneous.py). Raises NotEstimable "too noisy".
    """
    model = study.model(wanted.formula)
    fitted = least_squares.fit(noisy, outcome=model.outcome.name, predictors=model.predictors)
    hypotheses = [_none_of(term.name, columns=[column.name for column in term.columns], fitted=fitted) for term in model.terms]
    at = {}
    for name in wanted.covariates:
        place = noisy.columns.index(name)
        at[name] = noisy.centre[place] + noisy.half[place] * float(noisy.matrix[0, place + 1] / noisy.matrix[0, 0])
    return {
        "formula": model.formula,
        "outcome": wanted.outcome,
        "factor": wanted.factor,
        "n": round(fitted.n),
        "df": fitted.df,
        "rows": bootstrap.f_tests(noisy, fitted=fitted, hypotheses=hypotheses),
        "covariate_means": [{"name": name, "mean": mean} for name, mean in at.items()],
        **_levels(noisy, fitted=fitted, study=study, factor=wanted.factor, at=at),
    }


def slopes(noisy: NoisyMoments, *, study: Study, wanted: Ancova) -> dict[str, Any]:
    """Return the row of the test whether slopes differ between groups; raises NotEstimable "too noisy"."""
    model = study.model(wanted.formula_of_slopes)
    fitted = least_squares.fit(noisy, outcome=model.outcome.name, predictors=model.predictors)
    columns = [column.name for term in model.terms if len(term.atoms) == 2 for column in term.columns]
    one = _none_of(f"slopes between {wanted.factor}", columns=columns, fitted=fitted)
    return bootstrap.f_tests(noisy, fitted=fitted, hypotheses=[one])[0]


def _none_of(name: str, *, columns: list[str], fitted: Fit) -> Hypothesis:
    return Hypothesis(name=name, predictors=fitted.predictors, forms=tuple({column: 1.0} for column in columns))


def _levels(
    noisy: NoisyMoments, *, fitted: Fit, study: Study, factor: str, at: dict[str, float]
) -> dict[str, list[dict[str, Any]]]:
    levels = study.variable(factor).levels
    columns = ["", *(column.name for column in terms.indicators(factor, levels=levels))]
    means = [
        {"level": level, **_told(fitted.form({**at, **({column: 1.0} if column else {})}, intercept=1.0), of="mean")}
        for level, column in zip(levels, columns, strict=True)
    ]
    both = list(itertools.combinations(zip(levels, columns, strict=True), 2))
    weights = [{name: weight for name, weight in ((one, -1.0), (other, 1.0)) if name} for (_, one), (_, other) in both]
    made = [fitted.form(one) for one in weights]
    drawn = simultaneous.largest(noisy, fitted=fitted, forms=np.stack([fitted.row(one) for one in weights]))
    together, critical = simultaneous.adjusted([one.t for one in made], drawn=drawn)
    alone = adjust.holm([one.p for one in made]).tolist()
    pairs = []
    for ((first, _), (second, _)), one, p_holm, p_tukey in zip(both, made, alone, together, strict=True):
        reach = None if critical is None else critical * one.standard_error
        row = {"first": first, "second": second, **_told(one, of="difference"), "t": one.t, "p": one.p}
        row |= {"p_holm": p_holm, "p_tukey": p_tukey}
        row |= {
            "tukey_low": None if reach is None else one.value - reach,
            "tukey_high": None if reach is None else one.value + reach,
        }
        pairs.append(row)
    return {"means": means, "pairs": pairs}


def _told(one: Estimate, *, of: str) -> dict[str, Any]:
    return {
        of: one.value,
        "standard_error": one.standard_error,
        "ci_low": one.value - one.reach,
        "ci_high": one.value + one.reach,
        "width_ratio": one.width_ratio,
    }
