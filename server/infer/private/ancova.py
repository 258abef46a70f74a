"""A noisy Gram becomes an analysis of covariance: adjusted means, all pairs of them, and a test whether slopes are equal."""

from typing import Any

from common import terms
from common.noisy_moments import NoisyMoments
from common.study import Study
from common.wanted import Ancova
from server.infer.private import adjusted_means, bootstrap, least_squares
from server.infer.private.bootstrap import Hypothesis
from server.infer.private.least_squares import Fit


def adjusted(noisy: NoisyMoments, *, study: Study, wanted: Ancova) -> dict[str, Any]:
    """Return {"formula", "outcome", "factor", "n", "df", "rows", "covariate_means", "means", "pairs"}: one variance for all.

    `rows`: the factor and each covariate. Means are at the covariates' noisy means, `covariate_means`; an interval is for the
    mean at the values told, whatever noise is in them. `pairs`: p, an interval of each alone, p_holm, and p_tukey with an
    interval that hold for all together (simultaneous.py). Raises NotEstimable "too noisy".
    """
    model = study.model(wanted.formula)
    fitted = least_squares.fit(noisy, outcome=model.outcome.name, predictors=model.predictors)
    hypotheses = [_none_of(term.name, columns=[column.name for column in term.columns], fitted=fitted) for term in model.terms]
    at = {name: adjusted_means.mean_of(noisy, name=name) for name in wanted.covariates}
    levels = study.variable(wanted.factor).levels
    columns = [column.name for column in terms.indicators(wanted.factor, levels=levels)]
    cells = [
        (level, {**at, **{name: float(name == one) for name in columns}})
        for level, one in zip(levels, ("", *columns), strict=True)
    ]
    return {
        "formula": model.formula,
        "outcome": wanted.outcome,
        "factor": wanted.factor,
        "n": round(fitted.n),
        "df": fitted.df,
        "rows": bootstrap.f_tests(noisy, fitted=fitted, hypotheses=hypotheses),
        "covariate_means": [{"name": name, "mean": mean} for name, mean in at.items()],
        **adjusted_means.compare(noisy, fitted=fitted, families=[cells])[0],
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
