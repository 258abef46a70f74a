"""What a study would send, cost and be able to show, before anything is sent or spent; from the study alone."""

import math
from typing import Any

from common import analyses, fixed_point, left_out, noisy_moments, query, scores
from common.errors import ConfigError
from common.study import Study
from server import advice, plan_noise, plan_rules, spent
from server.infer.private import typical
from server.spent import INFINITE

PATIENTS_MOST = fixed_point.ROWS_MOST


def plan(study: Study, *, patients: int | None = None, hospitals: int | None = None) -> dict[str, Any]:
    """Return the plan of a study as JSON can hold it.

    `patients` complete in all columns, over all hospitals: where left out, what training declares and what it holds out;
    `hospitals`: where left out, hospitals_min. Keys: study, hash, patients, hospitals, rounds, rules, gram, analyses, training,
    total (epsilon of all that is noisy, for the hospital that takes part in everything), advice. A noisy round's
    `rounding_slack` is what rounding adds to its sensitivity, at most mechanism.ROUNDING_SLACK_MOST.
    Epsilons are those of the ledger's two accountants, rounded up: `epsilon_rdp` is what a hospital's cap counts, `epsilon` is
    by PLD. Nothing is sent and no random choice is made: equal studies have equal plans.
    Raises ConfigError on patients or hospitals out of range, on noise that does not fit the ring or is too coarse, also where
    hospitals are missing, and on models that the evaluation could not send.
    """
    n = _patients(study) if patients is None else patients
    many = study.hospitals_min if hospitals is None else hospitals
    if not 2 <= n <= PATIENTS_MOST:
        raise ConfigError(f"A plan is for 2 to {PATIENTS_MOST} patients.", action="Give another --patients.")
    if not study.hospitals_min <= many <= 64:
        raise ConfigError(
            f"A plan is for {study.hospitals_min} (hospitals_min) to 64 hospitals.", action="Give another --hospitals."
        )
    if many - len(study.evaluation.unseen) < study.hospitals_min:
        raise ConfigError("Unseen hospitals leave too few for training.", action="Give more --hospitals, or name fewer.")
    plan_noise.check(study, hospitals=many)
    gram, training = _gram(study, n=n, hospitals=many), _training(study, hospitals=many)
    asked = [_analysis(study, position) for position in range(len(study.statistics.analyses))]
    noisy = [one for task in plan_noise.TASKS for one in plan_noise.released(study, task=task, hospitals=many)]
    rules = [*plan_rules.rules(study, hospitals=many, gram=gram, asked=asked), *_leave_one_out(study, hospitals=many)]
    return {
        "study": study.name,
        "hash": study.hash(),
        "patients": n,
        "hospitals": many,
        "rounds": _rounds(study, gram=gram, asked=asked, training=training),
        "rules": rules,
        "gram": gram,
        "analyses": asked,
        "training": training,
        "total": spent.epsilons(noisy, delta=study.privacy.delta),
        "advice": [
            *advice.advise(gram=gram, training=training, patients=n, asked=asked, hospitals=many),
            *advice.deltas(study, patients=n),
        ],
    }


def _patients(study: Study) -> int:
    return min(PATIENTS_MOST, study.training.patients_all)


def _leave_one_out(study: Study, *, hospitals: int) -> list[str]:
    """Say what it costs to leave out each hospital once, where the study leaves out some."""
    if not study.evaluation.unseen:
        return []
    steps = plan_noise.released(study, task="train", hospitals=hospitals) * (hospitals - 1)
    cost = spent.epsilons(steps, delta=study.privacy.delta)
    told = (
        f"training: without {', '.join(study.evaluation.unseen)}; to leave out each hospital once is {hospitals} such studies, "
        f"a training each: epsilon {cost['epsilon']} (ledger: {cost['epsilon_rdp']}) of {hospitals - 1} trainings"
    )
    return [told]


def _gram(study: Study, *, n: int, hospitals: int) -> dict[str, Any]:
    columns, privacy = study.columns(), study.statistics.privacy
    if privacy is None:
        told = {"mechanism": "none", "epsilon": INFINITE, "rounding_slack": None, "releases": 1}
        return {"columns": len(columns), "numbers": left_out.dimension(len(columns)), **told}
    one = plan_noise.released(study, task="gram", hospitals=hospitals)[0]
    sigma, wanted = one.noise_deviation, study.statistics
    held = typical.cohort(study, clip_norm=float(privacy.clip_norm))
    models = {
        "regression": (wanted.regression.outcome, tuple(wanted.regression.predictors)),
        **{text: (study.model(text).outcome.name, study.model(text).predictors) for text in wanted.models},
    }
    return {
        "columns": len(columns),
        "numbers": noisy_moments.packed_size(len(columns)),
        "mechanism": "gaussian",
        "releases": 1,
        **spent.epsilons([one], delta=privacy.delta),
        "epsilon_with_void_rounds": spent.epsilons(
            plan_noise.released(study, task="gram", hospitals=hospitals, voids=True), delta=privacy.delta
        ),
        "sensitivity": one.sensitivity,
        "rounding_slack": one.rounding_slack,
        "sigma": sigma,
        "clip_norm": float(privacy.clip_norm),
        "typical_norm": held.norms[0],
        "norm_of_most": held.norms[1],
        "clipped": held.clipped,
        "lost": held.lost,
        "patients_max": privacy.patients_max,
        "coefficients": [
            {"model": name, **row}
            for name, (outcome, predictors) in models.items()
            for row in typical.coefficients(held, outcome=outcome, predictors=predictors, n=n, sigma=sigma)
        ],
        "terms": [
            {"model": text, **_term(study, held, text=text, at=at, n=n, sigma=sigma)}
            for text in wanted.models
            for at in range(len(study.model(text).terms))
        ],
        "pairs": typical.pairs(held, names=wanted.correlation, n=n, sigma=sigma),
        "comparisons": typical.comparisons(held, study=study, n=n, sigma=sigma),
    }


def _term(study: Study, held: typical.Typical, *, text: str, at: int, n: int, sigma: float) -> dict[str, Any]:
    model = study.model(text)
    one = model.terms[at]
    return typical.term(
        held,
        outcome=model.outcome.name,
        predictors=model.predictors,
        columns=[column.name for column in one.columns],
        name=one.name,
        n=n,
        sigma=sigma,
    )


def _analysis(study: Study, position: int) -> dict[str, Any]:
    """Return an analysis beyond the Gram: how many sums it may ask, how many numbers the longest has and fits coefficients."""
    one = study.statistics.analyses[position]
    forms = study.asked(position).forms
    return {
        "statistic": analyses.statistic(one, position=position),
        "kind": one.kind,
        "releases_most": analyses.queries_most(one),
        "epsilon": INFINITE,
        "numbers": max(query.dimension(form.example()) for form in forms) + left_out.ENTRIES,
        "coefficients": max(plan_rules.coefficients(form) for form in forms) or None,
        "cells": max(plan_rules.cells(form) for form in forms) or None,
    }


def _training(study: Study, *, hospitals: int) -> dict[str, Any]:
    training, privacy = study.training, study.privacy
    scored, charged = plan_noise.released(study, task="evaluate", hospitals=hospitals), study.evaluation.privacy
    steps = plan_noise.released(study, task="train", hospitals=hospitals)
    one = steps[0]
    batch = float(privacy.sampling_rate) * training.patients_declared
    deviation = one.noise_deviation / float(privacy.clip_norm)
    return {
        "steps": len(steps),
        "numbers": one.dimension,
        **spent.epsilons(steps, delta=privacy.delta),
        "epsilon_with_void_rounds": spent.epsilons(
            plan_noise.released(study, task="train", hospitals=hospitals, voids=True), delta=privacy.delta
        ),
        "rounding_slack": one.rounding_slack,
        "patients_per_step": batch,
        "noise_over_clip": deviation,
        "noise_over_clip_per_patient": deviation / batch,
        "noise_norm_over_clip_per_patient": deviation / batch * math.sqrt(one.dimension),
        "scores": scores.dimension(study),
        "scored": ["gaussian", spent.epsilons(scored, delta=charged.delta)["epsilon"], scored[0].rounding_slack]
        if charged
        else ["none", INFINITE, None],
    }


def _rounds(
    study: Study, *, gram: dict[str, Any], asked: list[dict[str, Any]], training: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the sums in the order of a run: a ComBat that is applied comes before the Gram."""
    voids = study.statistics.privacy.rounds_void_allowed if study.statistics.privacy else 0
    beyond = [_round(one["statistic"], None, one["releases_most"], one["numbers"], "none", INFINITE, None) for one in asked]
    first = [] if study.harmonised is None else [beyond.pop(study.harmonised)]
    scored_again = study.evaluation.privacy.rounds_void_allowed if study.evaluation.privacy else 0
    return [
        *first,
        _round("gram", 1, 1 + voids, gram["numbers"], gram["mechanism"], gram["epsilon"], gram["rounding_slack"]),
        *beyond,
        _round(
            "train",
            training["steps"],
            training["steps"] + study.privacy.rounds_void_allowed,
            training["numbers"],
            "gaussian",
            training["epsilon"],
            training["rounding_slack"],
        ),
        _round("evaluate", 1, 1 + scored_again, training["scores"], *training["scored"]),
    ]


def _round(
    task: str, rounds: int | None, most: int, numbers: int | None, mechanism: str, epsilon: str, slack: float | None
) -> dict[str, Any]:
    return {
        "task": task,
        "rounds": rounds,
        "rounds_most": most,
        "numbers": numbers,
        "mechanism": mechanism,
        "epsilon": epsilon,
        "rounding_slack": slack,
    }
