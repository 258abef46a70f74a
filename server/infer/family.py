"""Everything that a study asks of its one Gram, read from the opened sum; a part that has no answer says why instead."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from common.errors import NotEstimable
from common.left_out import LeftOut
from common.moments import Moments
from common.study import Study
from common.terms import Model, Term
from common.wanted import Ancova, Grouping
from server.infer import adjusted_means, ancova, anova, principal, regression, table_one, welch
from server.infer import partial as partial_correlation
from server.infer.groups import groups

KINDS: tuple[anova.Kind, ...] = ("I", "II", "III")


def read(moments: Moments, *, study: Study, without: LeftOut | None = None) -> dict[str, Any]:
    """Return the analyses of `study.statistics` beside correlation and regression, as JSON can hold them.

    `without` is who is left out of `moments`, and of each of these analyses, as incomplete.
    Keys: left_out, table_one, partial_correlation, components, models, groups, ancova. A part that is not estimable is
    {"diagnosis", "term"} in its place, a part of a study that asks nothing of its kind an empty list.
    """
    wanted = study.statistics
    varying = [name for name in wanted.correlation if moments.scatter(name, name) > 0]
    return {
        "left_out": without.plain() if without else None,
        "table_one": table_one.describe(moments, study=study, names=wanted.descriptive).plain() if wanted.descriptive else None,
        "partial_correlation": _or_why(lambda: _partial(moments, names=varying)),
        "components": _or_why(lambda: principal.components(moments, names=varying).plain()),
        "models": [_model(moments, study=study, text=text) for text in wanted.models],
        "groups": [
            {"outcome": one.outcome, "factor": one.factor, **_or_why(partial(_groups, moments, study=study, one=one))}
            for one in wanted.groups
        ],
        "ancova": [
            {"formula": one.formula, **_or_why(partial(_ancova, moments, study=study, one=one))} for one in wanted.ancova
        ],
    }


def _model(moments: Moments, *, study: Study, text: str) -> dict[str, Any]:
    model = study.model(text)
    return {
        "formula": model.formula,
        "fit": _or_why(lambda: regression.fit_model(moments, model=model).plain()),
        "anova": {kind: _or_why(partial(_anova, moments, model=model, kind=kind)) for kind in KINDS},
        "means": [
            {"term": term.name, **_or_why(partial(_means, moments, model=model, term=term))}
            for term in adjusted_means.terms_of(model)
        ],
    }


def _anova(moments: Moments, *, model: Model, kind: anova.Kind) -> dict[str, Any]:
    return anova.analyse(moments, model=model, kind=kind).plain()


def _means(moments: Moments, *, model: Model, term: Term) -> dict[str, Any]:
    return adjusted_means.of_term(moments, model=model, term=term).plain()


def _ancova(moments: Moments, *, study: Study, one: Ancova) -> dict[str, Any]:
    return ancova.analyse(moments, study=study, wanted=one).plain()


def _groups(moments: Moments, *, study: Study, one: Grouping) -> dict[str, Any]:
    levels = study.variable(one.factor).levels
    made = groups(moments, outcome=one.outcome, factor=one.factor, levels=levels)
    return welch.compare(made, outcome=one.outcome, factor=one.factor).plain()


def _partial(moments: Moments, *, names: Sequence[str]) -> dict[str, Any]:
    if len(names) < 3:
        raise NotEstimable("too few columns", term="partial correlation", action="It needs three columns that vary.")
    return partial_correlation.correlate(moments, names=names).plain()


def _or_why(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return make()
    except NotEstimable as error:
        return {"diagnosis": error.diagnosis, "term": error.term}
