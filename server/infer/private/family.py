"""Everything that a study asks of its one noisy Gram; a part that has no valid answer says why instead."""

from collections.abc import Callable
from functools import partial
from typing import Any

from common.errors import ConfigError, NotEstimable
from common.noisy_moments import NoisyMoments
from common.study import Study
from common.wanted import Ancova, Grouping
from server.infer.private import (
    adjusted_means,
    ancova,
    anova,
    bootstrap,
    components,
    correlation,
    group_sums,
    one_way,
    regression,
    resolved,
    table_one,
    welch,
)

MECHANISM = "gaussian"


def read(noisy: NoisyMoments, *, study: Study) -> dict[str, Any]:
    """Return the analyses of `study.statistics` as JSON can hold them.

    Keys: patients (noisy, rounded; None where it is all noise), noise, correlation, ols, table_one, partial_correlation,
    components, models, groups, ancova. Each analysis, and every row in it, has mechanism "gaussian" and the release's epsilon.
    A part that is not estimable is {"diagnosis", "term"} in its place; nothing is filled in. All of it reads one release:
    nothing here costs epsilon. Equal noisy moments give equal results. Raises ConfigError when they are of another study.
    """
    if noisy.columns != study.columns():
        raise ConfigError("The noisy Gram is not of this study's columns.", action="Read each study's sum with that study.")
    wanted = study.statistics
    numbers = [name for name in wanted.correlation if not study.variable(name).levels]
    told = {
        "correlation": _or_why(lambda: correlation.correlate(noisy, names=wanted.correlation)),
        "ols": {
            "outcome": wanted.regression.outcome,
            **_or_why(
                lambda: regression.table(noisy, outcome=wanted.regression.outcome, predictors=wanted.regression.predictors)
            ),
        },
        "table_one": _or_why(lambda: table_one.describe(noisy, study=study, names=wanted.descriptive))
        if wanted.descriptive
        else None,
        "partial_correlation": _or_why(lambda: correlation.partial(noisy, names=numbers)),
        "components": _or_why(lambda: components.analyse(noisy, names=wanted.correlation)),
        "models": [_model(noisy, study=study, text=text) for text in wanted.models],
        "groups": [
            {"outcome": one.outcome, "factor": one.factor, **_groups(noisy, study=study, one=one)} for one in wanted.groups
        ],
        "ancova": [{"formula": one.formula, **_or_why(partial(_ancova, noisy, study=study, one=one))} for one in wanted.ancova],
    }
    marks = {"mechanism": MECHANISM, "epsilon": noisy.epsilon}
    marked: dict[str, Any] = {key: _marked(part, marks=marks) for key, part in told.items()}
    return {
        "patients": _patients(noisy),
        "noise": {
            **marks,
            "delta": noisy.delta,
            "sigma": noisy.sigma,
            "clip_norm": noisy.clip_norm,
            "hospitals": noisy.hospitals,
            "draws": bootstrap.DRAWS,
        },
        **marked,
    }


def _patients(noisy: NoisyMoments) -> int | None:
    try:
        return round(resolved.patients(noisy))
    except NotEstimable:
        return None


def _model(noisy: NoisyMoments, *, study: Study, text: str) -> dict[str, Any]:
    model = study.model(text)
    tested = _or_why(lambda: dict(anova.analyse(noisy, model=model)))
    try:
        means = adjusted_means.of_model(noisy, model=model)
    except NotEstimable as error:
        means = [{"term": "adjusted means", "diagnosis": error.diagnosis}]
    return {
        "formula": model.formula,
        "fit": _or_why(lambda: regression.table(noisy, outcome=model.outcome.name, predictors=model.predictors)),
        "means": means,
        "anova": dict.fromkeys(anova.KINDS, tested) if "diagnosis" in tested else tested,
    }


def _groups(noisy: NoisyMoments, *, study: Study, one: Grouping) -> dict[str, Any]:
    sums = group_sums.read(noisy, outcome=one.outcome, factor=one.factor, levels=study.variable(one.factor).levels)
    return {**_or_why(lambda: one_way.compare(sums)), "welch": _or_why(lambda: welch.compare(sums))}


def _ancova(noisy: NoisyMoments, *, study: Study, one: Ancova) -> dict[str, Any]:
    made = ancova.adjusted(noisy, study=study, wanted=one)
    tested = _or_why(lambda: ancova.slopes(noisy, study=study, wanted=one))
    if "diagnosis" in tested:
        return {**made, "slopes_diagnosis": f"{tested['term']}: {tested['diagnosis']}"}
    return {**made, "rows": [*made["rows"], tested], "slopes_diagnosis": ""}


def _marked(part: Any, *, marks: dict[str, str]) -> Any:  # noqa: ANN401
    """Return a part of the result with the mechanism and epsilon in it and in every row of it."""
    if isinstance(part, list):
        return [_marked(item, marks=marks) for item in part]
    if isinstance(part, dict):
        made = {key: _marked(item, marks=marks) for key, item in part.items()}
        return made if all(isinstance(item, dict) for item in part.values()) else {**made, **marks}  # one dict per type of test
    return part


def _or_why(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return make()
    except NotEstimable as error:
        return {"diagnosis": error.diagnosis, "term": error.term}
