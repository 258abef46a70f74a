"""A declared analysis becomes the generator that asks for its sums: the specification comes from the study alone."""

from typing import Any

from common import analyses, forms
from common.analyses import Declared
from common.query import Analysis, Column
from common.study import Study
from server.infer import (
    absorbed,
    agreement,
    cluster,
    combat,
    cox,
    kaplan_meier,
    logistic,
    meta_analysis,
    mixed,
    ordinal,
    quantiles,
    ranks,
    robust,
    roc,
    spearman,
)


def start(study: Study, *, position: int) -> Analysis[Any]:  # noqa: PLR0911  (one branch a kind)
    """Return the generator of the analysis at `position`; every query that it yields is of the forms of study.asked."""
    one = study.statistics.analyses[position]
    dictionary = study.dictionary()
    bound = study.asked(position)
    predictors = tuple(forms.described(column, dictionary=dictionary) for column in bound.predictors)
    columns = tuple(forms.described(column, dictionary=dictionary) for column in bound.responses)
    names = tuple(column.name for column in columns)
    match one:
        case analyses.Logistic():
            return logistic.fit(logistic.Spec(outcome=names[0], predictors=predictors))
        case analyses.Ordinal():
            levels = len(study.variable(names[0]).levels)
            return ordinal.fit(ordinal.Spec(outcome=names[0], levels=levels, predictors=predictors))
        case analyses.Robust() | analyses.Absorbed() | analyses.Meta():
            return _linear(one, robust.Spec(outcome=columns[0], predictors=predictors))
        case analyses.Mixed():
            return mixed.fit(mixed.Spec(outcome=columns[0], predictors=predictors))
        case analyses.Cox():
            grid = forms.edges(names[0], bins=one.bins, dictionary=dictionary) if one.bins else ()
            return cox.fit(cox.Spec(time=names[0], event=names[1], predictors=predictors, grid=grid))
        case analyses.KMeans():
            return cluster.fit(cluster.Spec(columns=columns, sizes=one.sizes))
        case analyses.Mixture():
            return cluster.mixture(cluster.Spec(columns=columns, sizes=(one.components,)))
        case analyses.Agreement():
            return agreement.fit(agreement.Spec(readers=columns))
        case analyses.Combat():
            return combat.fit(combat.Spec(features=columns[: len(one.features)], covariates=predictors))
        case _:
            return _counted(one, columns, study)


def _linear(one: analyses.Robust | analyses.Absorbed | analyses.Meta, spec: robust.Spec) -> Analysis[Any]:
    match one:
        case analyses.Robust():
            return robust.fit(spec)
        case analyses.Absorbed():
            return absorbed.fit(spec)
        case analyses.Meta():
            return meta_analysis.fit(spec, by_hospital=one.kind == "forest")


def _counted(one: Declared, columns: tuple[Column, ...], study: Study) -> Analysis[Any]:
    dictionary = study.dictionary()
    names = tuple(column.name for column in columns)
    match one:
        case analyses.KaplanMeier():
            return kaplan_meier.fit(
                kaplan_meier.Spec(
                    time=one.time,
                    event=one.event,
                    grid=forms.edges(one.time, bins=one.bins, dictionary=dictionary),
                    group=one.group,
                    levels=len(study.variable(one.group).levels) if one.group else 1,
                )
            )
        case analyses.Roc():
            grid = forms.edges(one.score, bins=one.bins, dictionary=dictionary)
            return roc.fit(roc.Spec(outcome=one.outcome, score=one.score, grid=grid))
        case analyses.Ranks():
            grid = forms.edges(one.response, bins=one.bins, dictionary=dictionary)
            levels = len(study.variable(one.group).levels)
            return ranks.fit(ranks.Spec(response=one.response, grid=grid, group=one.group, levels=levels))
        case analyses.Spearman():
            grids = tuple(forms.edges(name, bins=one.bins, dictionary=dictionary) for name in names)
            return spearman.fit(spearman.Spec(names=names, grids=grids))
        case analyses.Quantiles():
            grid = forms.edges(one.variable, bins=one.bins, dictionary=dictionary)
            wanted = tuple(map(float, one.probabilities))
            return quantiles.fit(quantiles.Spec(name=one.variable, grid=grid, probabilities=wanted))
        case _:
            raise TypeError("not one of the declared analyses")
