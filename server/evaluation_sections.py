"""An evaluation as sections of the report: ROC, reliability, confusion matrix, classes, subgroups and hospitals."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from server import figures, plots_evaluation
from server.sections import section
from server.tables import Table, table

SHARES: Final = {
    "auc": "AUC",
    "accuracy": "accuracy at 0.5",
    "sensitivity": "sensitivity at 0.5",
    "specificity": "specificity at 0.5",
}
ALL_CLASSES: Final = {"accuracy": "accuracy", "kappa": "Cohen's kappa"}
VALUES: Final = {
    "mean_absolute_error": "mean absolute error",
    "rmse": "root mean squared error",
    "r_squared": "R squared",
    "correlation": "correlation of true and predicted",
    "slope": "slope of true on predicted",
}
WEIGHTED: Final = "quadratically weighted kappa"
Part = Mapping[str, Any]


def sections(training: Part | None) -> list[dict[str, Any]]:
    """Return {"title", "note", "absent", "tables", "figures"} per part of result["training"]["evaluation"]; none without it."""
    part = (training or {}).get("evaluation")
    if not part:
        return []
    drawn_before = bool((training or {}).get("histogram"))
    found = [_question(one, key=f"question-{at}", roc=not drawn_before) for at, one in enumerate(part.get("questions") or ())]
    if part.get("confusion"):
        found.append(_confusion(part["confusion"], head=part["head"]))
    if part.get("regression"):
        one = part["regression"]
        note = f"{one['patients']} patients; errors in the unit of {part['label']}."
        found.append(section(f"Predicted values of {part['label']}", [], tables=[_measures(one, VALUES)], note=note))
    found += [_groups(f"Subgroups by {one['variable']}", one["rows"], part=part) for one in part.get("subgroups") or ()]
    if part.get("hospitals"):
        found.append(_groups("Hospitals that show their own result", part["hospitals"], part=part))
    if part.get("unseen"):
        found.append(_groups("Hospitals that took no part in training", part["unseen"], part=part))
    return found


def headline(training: Part) -> tuple[str, float | None]:
    """Return the one figure of an evaluation with its name: the AUC, of several questions their mean; the error of values."""
    part = training.get("evaluation") or {}
    if part.get("regression"):
        return "mean absolute error", part["regression"]["mean_absolute_error"]["value"]
    return "mean AUC" if len(part.get("questions") or ()) > 1 else "AUC", training["auc"]


def marks(training: Part) -> dict[str, Any]:
    """Return what each row of an evaluation's CSV says: how many patients, and at which price."""
    noise = (training.get("evaluation") or {}).get("noise") or {}
    name, epsilon = ("gaussian", noise["epsilon"]) if noise else ("none", "infinite")
    return {"n": training.get("held_out_patients"), "mechanism": name, "epsilon": epsilon}


def _question(one: Part, *, key: str, roc: bool) -> dict[str, Any]:
    rows = [{**row, **_flat("observed", row["observed"])} for row in one["reliability"]]
    error, brier = one["calibration_error"], one["brier"]
    more = [
        {"measure": name, "value": value}
        for name, value in (("expected calibration error", error), ("Brier score", brier))
        if value is not None
    ]
    measures = _measures(one, SHARES, more=more)
    columns = ("from", "to", "patients", "predicted", "observed", "observed_low", "observed_high")
    drawn = (
        [figures.roc([(x, y) for x, y in one["roc"]], key=f"{key}-roc", title=f"ROC, {one['question']}")]
        if roc and one["roc"]
        else []
    )
    drawn.append(
        plots_evaluation.reliability(one["reliability"], title=f"Reliability, {one['question']}", key=f"{key}-reliability")
    )
    note = f"{one['patients']} held-out patients, {one['positive']} of them positive."
    return section(one["question"], [], tables=[measures, table("Reliability", columns, rows)], note=note, drawn=drawn)


def _confusion(one: Part, *, head: str) -> dict[str, Any]:
    classes = one["classes"]
    rows = [
        {"true class": name, **dict(zip(classes, row, strict=True))} for name, row in zip(classes, one["counts"], strict=True)
    ]
    tables = [table("Patients by true class and predicted class", ("true class", *classes), rows)]
    if "kappa" in one:
        tables.append(_measures(one, _of_classes(head)))
        told = ("sensitivity", "specificity", "predictive_value")
        each = [{**row, **{k: v for name in told for k, v in _flat(name, row[name]).items()}} for row in one["per_class"]]
        columns = ("class", "patients", *(end for name in told for end in (name, f"{name}_low", f"{name}_high")))
        tables.append(table("Each class against the rest", columns, each))
    note = "A patient is taken for the most probable class." if "kappa" in one else "At a score of one half."
    return section(
        "Confusion matrix",
        [],
        tables=tables,
        note=note,
        drawn=[plots_evaluation.confusion(one["counts"], classes=classes, key="confusion")],
    )


def _groups(title: str, rows: Sequence[Part], *, part: Part) -> dict[str, Any]:
    """Return one row per group; those without numbers say why."""
    head = part["head"]
    names = VALUES if head == "regression" else SHARES if head == "binary" else _of_classes(head)
    told = [
        {"group": row["group"], "patients": row.get("patients"), **({"why": row["diagnosis"]} if "diagnosis" in row else {})}
        | {key: value for name in names if name in row for key, value in _flat(name, row[name]).items()}
        for row in rows
    ]
    columns = ["group", "patients", *(end for name in names for end in (name, f"{name}_low", f"{name}_high"))]
    columns += ["why"] if any("why" in row for row in told) else []
    parts = [{"term": title, "diagnosis": part["details_diagnosis"]}] if part.get("details_diagnosis") else []
    note = "A group below a hospital's minimum is among everybody else there, or not told." if part.get("noise") is None else ""
    return section(title, parts, tables=[table(title, columns, told, heads=names)], note=note)


def _of_classes(head: str) -> dict[str, str]:
    return {**ALL_CLASSES, "kappa": WEIGHTED} if head == "ordinal" else ALL_CLASSES


def _measures(one: Part, names: Mapping[str, str], *, more: Sequence[Part] = ()) -> Table:
    rows = [
        {"measure": told, "value": one[name]["value"], "ci_low": one[name]["low"], "ci_high": one[name]["high"]}
        for name, told in names.items()
        if name in one
    ]
    return table("Measures", ("measure", "value", "ci_low", "ci_high"), [*rows, *more])


def _flat(name: str, one: Part) -> dict[str, Any]:
    return {name: one["value"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
