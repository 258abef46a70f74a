"""The evaluation of a study's models: one secure sum of tables, exact or charged, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common import fixed_point, scores, wire
from common.canonical import decimal_text
from common.crypto import ring
from common.errors import ProtocolError
from common.mechanism import Mechanism, NoisyScores
from common.study import Study
from server import accept, evaluate, evaluation_measures, evaluation_regression
from server.evaluation_measures import stands_out
from server.rounds import Rounds
from server.spent import epsilons

Float = NDArray[np.float64]

REST: Final = "everybody else"
NOBODY: Final = "nobody, or too few to be told"
NOT_SHOWN: Final = "not shown, nobody, or too few to be told"
LOST_IN_NOISE: Final = "lost in the noise"
EARLIER: Final = "the result is an earlier model; the details are of the last one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What the evaluation said, and which of the models it made the result."""

    told: dict[str, Any]
    accepted: int


def run(rounds: Rounds, study: Study, checkpoints: Sequence[bytes]) -> Scored:
    """Open the tables of the study's models and read them; `checkpoints`: the first model, one after each step, the final one.

    What is told has the keys of `result["training"]`; `evaluation` holds all measures, with their intervals. Where the sum
    cannot be opened, or holds what no patients add up to, the final model is the result, and the diagnosis says why.
    """
    last, private = len(checkpoints) - 1, study.evaluation.privacy
    scored = list(checkpoints) if private is None else [checkpoints[-1]]
    try:
        announced, words = rounds.secure_sum(
            task="evaluate",
            index=len(scored),
            dimension=scores.dimension(study),
            blob=wire.pack(scored),
            attempts=1 + (private.rounds_void_allowed if private else 0),
        )
        values = _values(words, spent=announced.mechanism, study=study)
    except ProtocolError as error:  # the model is there all the same
        nothing: dict[str, Any] = {
            "steps": study.training.steps,
            "auc": None,
            "auc_ci": None,
            "curve": [],
            "diagnosis": error.what,
        }
        return Scored(told=nothing, accepted=last)
    spent, opened = announced.mechanism, scores.split(values, study=study)
    noise = spent.noise_deviation if isinstance(spent, NoisyScores) else 0.0
    at, curve = _accepted(opened, study=study) if private is None else (last, [])
    chosen = opened.models[at if private is None else 0]
    told: dict[str, Any] = {
        "steps": study.training.steps,
        "rolled_back_to_step": None if at == last else at,
        **_headline(chosen, study=study, noise=noise),
        "curve": curve,
        "evaluation": {
            "head": study.training.head,
            "label": study.training.label,
            "noise": _noise(spent, study=study) if isinstance(spent, NoisyScores) else None,
            **_pooled(chosen, study=study, noise=noise),
            **_details(opened, study=study, noise=noise, hospitals=announced.hospitals),
            "details_diagnosis": EARLIER if at != last and opened.details else None,
        },
    }
    return Scored(told=told, accepted=at)


def questions(study: Study) -> tuple[str, ...]:
    """Return the yes-or-no questions of a head's scores in words."""
    training = study.training
    if training.head == "binary" and training.positive_above is not None:
        return (f"{training.label} above {decimal_text(training.positive_above)}",)
    if training.head == "ordinal":
        return tuple(f"{training.label}: beyond {name}" for name in training.classes[:-1])
    return tuple(f"{training.label}: {name}" for name in training.classes)


def _values(words: ring.Words, *, spent: Mechanism, study: Study) -> Float:
    """Return the numbers of an opened sum; raises ProtocolError where an exact one holds what no patients add up to."""
    decoded = ring.decode(words, bits=spent.ring_bits).astype(np.int64)
    if isinstance(spent, NoisyScores):
        return np.asarray(decoded * spent.grid_step)
    unit = 2.0**-scores.UNIT_BITS if study.training.head == "regression" else 1.0
    values = np.asarray(decoded * unit)
    if (values < 0).any() or (values > fixed_point.ROWS_MOST).any():
        raise ProtocolError("The opened tables hold a count that is none.", action="Ask each hospital which version it runs.")
    return values


def _accepted(opened: scores.Opened, *, study: Study) -> tuple[int, list[dict[str, Any]]]:
    """Return which model is the result, and the curve over the steps: the mean AUC of the questions, log loss of one."""
    if study.training.head == "regression":
        return len(opened.models) - 1, []
    tables = [[evaluate.from_histogram(one.astype(np.int64)) for one in model["scores"]] for model in opened.models]
    curve = [
        {"step": step, "auc": _mean([one.auc for one in each]), "log_loss": each[0].log_loss if len(each) == 1 else None}
        for step, each in enumerate(tables[:-1])
    ]
    return accept.accepted([each[0] for each in tables], auc_drop_max=study.training.auc_drop_max), curve


def _headline(tables: dict[str, Float], *, study: Study, noise: float) -> dict[str, Any]:
    """Return the figures of the report's first lines; of several questions, the mean of their AUCs."""
    if "scores" not in tables:
        return {"auc": None, "auc_ci": None, "held_out_patients": _whole(float(tables["sums"][0])), "diagnosis": "ok"}
    if study.training.head == "binary" and noise == 0:
        counts = tables["scores"][0].astype(np.int64)
        one = evaluate.from_histogram(counts)
        return {
            "auc": one.auc,
            "auc_ci": None if one.auc_interval is None else list(one.auc_interval),
            "accuracy": one.accuracy,
            "log_loss": one.log_loss,
            "held_out_patients": one.n_positive + one.n_negative,
            "diagnosis": one.diagnosis,
            "histogram": counts.tolist(),
        }
    found = [evaluation_measures.auc(table, noise=noise) for table in tables["scores"]]
    mean = _mean([one.value for one in found])
    alone = found[0] if len(found) == 1 and found[0].low is not None else None
    sure = _all(tables, study=study, noise=noise)["accuracy"]
    return {
        "auc": mean,
        "auc_ci": [alone.low, alone.high] if alone else None,
        "accuracy": sure["value"],
        "log_loss": None,
        "held_out_patients": _whole(float(tables["scores"][0].sum())),
        "diagnosis": "ok" if mean is not None else LOST_IN_NOISE if noise else "a class has nobody",
    }


def _all(tables: dict[str, Float], *, study: Study, noise: float) -> dict[str, Any]:
    """Return the measures of all classes together."""
    if "confusion" in tables:
        return evaluation_measures.confusion(tables["confusion"], noise=noise, ordinal=study.training.head == "ordinal")
    return evaluation_measures.binary(tables["scores"][0], noise=noise)


def _pooled(tables: dict[str, Float], *, study: Study, noise: float) -> dict[str, Any]:
    """Return every measure over all held-out patients."""
    if "sums" in tables:
        return {"regression": _regression(tables["sums"], study=study, noise=noise)}
    asked = [
        {
            "question": name,
            **evaluation_measures.binary(table, noise=noise),
            **evaluation_measures.calibration(table, noise=noise),
        }
        for name, table in zip(questions(study), tables["scores"], strict=True)
    ]
    if "confusion" not in tables:
        return {"questions": asked, "confusion": _halves(tables["scores"][0], noise=noise)}
    matrix, classes = tables["confusion"], list(study.training.classes)
    return {
        "questions": asked,
        "confusion": {
            "classes": classes,
            "counts": _counts(matrix, noise=noise),
            **_all(tables, study=study, noise=noise),
            "per_class": evaluation_measures.per_class(matrix, classes=classes, noise=noise),
        },
    }


def _halves(table: Float, *, noise: float) -> dict[str, Any]:
    """Return the confusion matrix of one question at a score of one half."""
    upper = (np.arange(table.shape[1]) + 0.5) / table.shape[1] >= 0.5
    matrix = np.array([[side[~upper].sum(), side[upper].sum()] for side in table])
    return {"classes": ["no", "yes"], "counts": _counts(matrix, noise=noise)}


def _details(opened: scores.Opened, *, study: Study, noise: float, hospitals: Sequence[str]) -> dict[str, Any]:
    """Return the measures of each subgroup, and of each hospital that shows its own."""
    told: dict[str, Any] = {"subgroups": [], "hospitals": None, "unseen": None}
    for name, table in opened.details.items():
        if name == scores.HOSPITALS:
            told["hospitals"] = _rows(table[: len(hospitals)], names=hospitals, study=study, noise=noise, absent=NOT_SHOWN)
        elif name == scores.UNSEEN:
            unseen = ", ".join(hospital for hospital in study.evaluation.unseen if hospital in hospitals)
            told["unseen"] = _rows(table, names=[unseen or "none took part"], study=study, noise=noise, absent=NOT_SHOWN)
        else:
            names = [*scores.names(study, variable=name), REST]
            rows = _rows(table, names=names, study=study, noise=noise, absent=NOBODY)
            told["subgroups"].append({"variable": name, "rows": rows})
    return told


def _rows(table: Float, *, names: Sequence[str], study: Study, noise: float, absent: str) -> list[dict[str, Any]]:
    """Return a row for each group; of one with nobody, or that does not stand out of the noise, only why."""
    head, rows = study.training.head, []
    for name, group in zip(names, table, strict=True):
        counted = group[:1] if head == "regression" else group
        if not stands_out(float(counted.sum()), noise=noise, cells=counted.size):
            rows.append({"group": name, "diagnosis": LOST_IN_NOISE if noise else absent})
        elif head == "regression":
            rows.append({"group": name, **_regression(group, study=study, noise=noise)})
        elif head == "binary":
            rows.append({"group": name, **evaluation_measures.binary(group, noise=noise)})
        else:
            rows.append({"group": name, **evaluation_measures.confusion(group, noise=noise, ordinal=head == "ordinal")})
    return rows


def _regression(sums: Float, *, study: Study, noise: float) -> dict[str, Any]:
    lower, upper = study.declared_bounds(study.training.label)
    return evaluation_regression.measures(sums, noise=noise, lower=lower, upper=upper)


def _noise(spent: NoisyScores, *, study: Study) -> dict[str, Any]:
    """Return what the release cost by itself, at its own delta, and how much noise each number has."""
    private = study.evaluation.privacy
    if private is None:
        raise TypeError("a noisy evaluation has privacy parameters")
    return {
        "epsilon": epsilons([spent], delta=private.delta)["epsilon"],
        "delta": decimal_text(private.delta),
        "noise_multiplier": decimal_text(private.noise_multiplier),
        "sensitivity": spent.sensitivity,
        "sigma": spent.noise_deviation,
        "hospitals": spent.hospitals,
        "colluders": spent.colluders,
    }


def _counts(matrix: Float, *, noise: float) -> list[list[float]]:
    return [[round(value) if noise == 0 else round(value, 1) for value in row] for row in matrix.tolist()]


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None


def _whole(n: float) -> int:
    return max(0, round(n))
