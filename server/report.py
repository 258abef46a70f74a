"""The result of a study as one self-contained page: findings, their privacy cost, and what is not protected."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template, TemplateError
from scipy import stats

from common import files
from common.analyses import PREFIX
from common.errors import ConfigError
from server import evaluation_sections, figures, methods, private_sections, words
from server.figures import number
from server.sections import sections, without
from server.tables import cell, in_parts, stars
from server.told import told

PAIRS_SHOWN = 20
STATISTICS = {
    "gram": "gram: number of patients, sums and products of the study's columns, number of incomplete patients",
    "score-histogram": "score-histogram: held-out patients by class and score, for each saved model",
}
COEFFICIENT = ("term", "estimate", "standard_error", "ci_low", "ci_high", "t", "p", "vif", "standardised")


def render(result: Mapping[str, Any], *, out: Path) -> None:
    """Write `result` (the structure of result.json) as one HTML page to the file `out`, whole or not at all.

    Guarantee: nothing is fetched from anywhere and no script runs; every text is escaped; equal results give equal bytes;
    a part that is absent or has no number is named as absent, never filled in. Every figure has a table.
    Raises ConfigError when `result` does not have that structure.
    """
    try:
        page = _page(result)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, TemplateError) as error:
        raise ConfigError(
            f"The result cannot be shown: it does not have the structure of result.json ({type(error).__name__}).",
            action="Make it again with motet-coordinator.",
        ) from error
    files.write(out, page.encode())


@cache
def _template() -> Template:
    """Return the page's template, compiled once."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        fixed=_fixed, short=_short, p=_p_value, hospitals=_hospitals, statistic=_statistic, in_parts=in_parts
    )
    return environment.from_string(resources.files("server").joinpath("report.html.j2").read_text(encoding="utf-8"))


def _page(result: Mapping[str, Any]) -> str:
    study, private = result["study"], result.get("private_gram") or {}
    return _template().render(
        study={key: str(study.get(key) or "") for key in ("name", "title", "hash", "purpose")},
        federation=str(result.get("federation") or ""),
        complete_cases=str(study.get("complete_cases") or ""),
        hospitals=[str(name) for name in result.get("hospitals") or ()],
        patients=result.get("patients", private.get("patients")),
        left_out=without(result.get("left_out")),
        rounds=[
            {**one, "task": one["task"] if one["index"] is None else words.step(str(one["task"]), one["index"])}
            for one in _filled(result.get("rounds"), ("round", "task", "index", "hospitals", "state", "seconds", "missing"))
        ],
        seconds=dict(result.get("seconds") or {}),
        correlation=_correlation(result.get("correlation")),
        ols=_ols(result.get("ols")),
        linear=sections(result.get("linear")),
        read=methods.of_linear(result.get("linear")),
        private=private_sections.sections(private),
        noise=dict(private.get("noise") or {}),
        spent=dict(result.get("privacy") or {}),
        analyses=told(result.get("analyses") or ()),
        training=_training(result.get("training")),
        evaluation=evaluation_sections.sections(result.get("training")),
        headline=evaluation_sections.headline({"auc": None, **(result.get("training") or {})}),
        scored={"noise": None, "head": None} | dict((result.get("training") or {}).get("evaluation") or {}),
        budgets=_budgets(result),
        exact=_filled(result.get("exact_releases"), ("round", "statistic", "hospitals")),
        shown=_runs_of(_filled(result.get("exact_releases"), ("round", "statistic", "hospitals"))),
    )


def _runs_of(exact: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the exact sums with those of one analysis on one line: which rounds, and how many there were."""
    found: list[dict[str, Any]] = []
    for item in exact:
        last = found[-1] if found else None
        same = str(item["statistic"]).startswith(PREFIX) and last and last["key"] == (item["statistic"], item["hospitals"])
        if last and same:
            last.update(last=item["round"], count=last["count"] + 1)
        else:
            found.append({**item, "last": item["round"], "count": 1, "key": (item["statistic"], item["hospitals"])})
    return found


def _correlation(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the matrix, its pairs by size, and Benjamini-Hochberg marks over all pairs."""
    if not part:
        return None
    names = [str(name) for name in part["names"]]
    count = len(names)
    where = [(i, j) for i in range(count) for j in range(i) if number(part["p"][i][j]) is not None]
    raw = np.array([min(1.0, max(0.0, float(part["p"][i][j]))) for i, j in where])
    adjusted = stats.false_discovery_control(raw) if where else raw
    marks = [[""] * count for _ in names]
    pairs = []
    for (i, j), q in zip(where, adjusted.tolist(), strict=True):
        marks[i][j] = marks[j][i] = stars(q)
        values = {key: part[key][i][j] if part.get(key) else None for key in ("r", "p", "ci_low", "ci_high")}
        pairs.append({"first": names[j], "second": names[i], **values, "q": q, "mark": marks[i][j]})
    pairs.sort(key=lambda pair: (-abs(number(pair["r"]) or 0.0), pair["first"], pair["second"]))
    return {
        "n": part.get("n"),
        "names": names,
        "constant": [str(name) for name in part.get("constant") or ()],
        "pairs": pairs[:PAIRS_SHOWN],
        "more": pairs[PAIRS_SHOWN:],
        "count": len(pairs),
        "figure": figures.heatmap(names, part["r"], marks),
    }


def _ols(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the table and the coefficient plot, standardised where the result says how."""
    if not part:
        return None
    rows = _filled(part.get("rows"), COEFFICIENT)
    slopes = [row for row in rows if row["term"] != "(intercept)"]
    standard = bool(slopes) and all(number(row["standardised"]) is not None and number(row["estimate"]) for row in slopes)
    drawn = []
    for row in slopes:
        ends = [number(row[key]) for key in ("estimate", "ci_low", "ci_high")]
        factor = row["standardised"] / row["estimate"] if standard else 1.0
        estimate, low, high = (None if end is None else end * factor for end in ends)
        if estimate is not None and low is not None and high is not None:
            drawn.append({"term": row["term"], "estimate": estimate, "low": low, "high": high, "clear": low > 0 or high < 0})
    outcome = str(part.get("outcome") or "")
    unit = (
        f"change of {outcome}, in its standard deviations, per standard deviation"
        if standard
        else f"change of {outcome} per unit"
    )
    keys = (
        "diagnosis",
        "n",
        "df",
        "r_squared",
        "r_squared_low",
        "r_squared_high",
        "r_squared_adjusted",
        "sigma",
        "f",
        "f_p",
        "condition_number",
    )
    return {
        **{key: part.get(key) for key in keys},
        "outcome": outcome,
        "predictors": [str(row["term"]) for row in slopes],
        "rows": rows,
        "figure": figures.coefficients(drawn, unit=unit) if drawn else None,
    }


def _training(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the curves and the ROC of a training; counts come as (class, bin), class 1 positive."""
    if not part:
        return None
    points = _filled(part.get("curve"), ("step", "auc", "log_loss"))
    drawn = []
    for key, label, bounds in (("auc", "AUC", (0.0, 1.0)), ("log_loss", "Log loss", None)):
        line = [(float(p["step"]), value) for p in points if (value := number(p[key])) is not None]
        if line:
            drawn.append(figures.curve(line, key=key, label=label, bounds=bounds))
    keys = (
        "steps",
        "auc",
        "auc_ci",
        "accuracy",
        "log_loss",
        "held_out_patients",
        "diagnosis",
        "releases",
        "rolled_back_to_step",
    )
    privacy = ("epsilon", "epsilon_rdp", "delta", "noise_multiplier", "clip_norm", "sampling_rate", "colluders", "local_steps")
    thresholds = _thresholds(part.get("histogram") or ((), ()))
    return {
        **{key: part.get(key) for key in (*keys, *privacy)},
        "interval": [number(end) for end in part.get("auc_ci") or ()],
        "points": points,
        "curves": drawn,
        "thresholds": thresholds[1:],
        "roc": figures.roc([(row["false_positive"], row["sensitivity"]) for row in thresholds]) if thresholds else None,
    }


def _thresholds(histogram: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """Return sensitivity and 1 - specificity at the lower edge of each bin that holds somebody, from the highest score down."""
    negative, positive = ([int(count) for count in counts] for counts in histogram)
    if not sum(negative) or not sum(positive):
        return []
    rows = [{"threshold": math.inf, "positives": 0, "negatives": 0, "sensitivity": 0.0, "false_positive": 0.0}]
    hits = alarms = 0
    for at in range(len(positive) - 1, -1, -1):
        hits, alarms = hits + positive[at], alarms + negative[at]
        if positive[at] or negative[at]:
            rows.append(
                {
                    "threshold": at / len(positive),
                    "positives": positive[at],
                    "negatives": negative[at],
                    "sensitivity": hits / sum(positive),
                    "false_positive": alarms / sum(negative),
                }
            )
    return rows


def _budgets(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return each hospital's epsilon and cap; a count of exact releases stays beside every epsilon."""
    rows = []
    for name, spent in sorted((result.get("hospital_epsilon") or {}).items()):
        counts = {key: spent.get(key) for key in ("private_releases", "exact_releases")}
        rows.append({"name": str(name), "epsilon": spent.get("epsilon"), "cap": spent.get("cap"), **counts})
    bars = [{**row, "epsilon": number(row["epsilon"]), "cap": number(row["cap"])} for row in rows]
    return {"rows": rows, "figure": figures.budgets(bars) if rows else None}


def _filled(rows: Sequence[Mapping[str, Any]] | None, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return copies of the rows in which an absent key is None."""
    return [{**dict.fromkeys(keys), **row} for row in rows or ()]


def _fixed(value: Any, digits: int = 3) -> str:  # noqa: ANN401
    """Write a number with so many decimals; a dash where there is none."""
    found = number(value)
    return "\u2013" if found is None else f"{found:.{digits}f}".replace("-", "\u2212")


def _short(value: Any, digits: int = 4) -> str:  # noqa: ANN401
    """Write a number with so many significant digits; a dash where there is none."""
    found = number(value)
    return "\u2013" if found is None else f"{found:.{digits}g}".replace("-", "\u2212")


def _hospitals(count: Any) -> str:  # noqa: ANN401
    """Write how many hospitals may collude."""
    return "no hospital" if count == 0 else "one hospital" if count == 1 else f"{'some' if count is None else count} hospitals"


def _statistic(name: Any) -> str:  # noqa: ANN401
    """Write what an exact statistic holds; one of a declared analysis, or an unknown one, by its name."""
    return STATISTICS.get(str(name), str(name))


def _p_value(value: Any) -> str:  # noqa: ANN401
    """Write a p-value as the tables do."""
    return cell(number(value), p_value=True)
