"""Declared analyses that read counts, told: survival, ROC, rank tests and correlations, quantiles."""

from collections.abc import Mapping
from typing import Any

from scipy import stats

from server import figures, plots
from server.plots_histogram import histogram
from server.tables import cell, interval, table
from server.told_linear import Parts

STEPS = ("group", "start", "end", "at_risk", "deaths", "survival", "standard_error", "ci_low", "ci_high")
BIN = {"low": "bin from", "high": "bin to"}
HAZARDS = ("first", "second", "hazard_ratio", "hazard_ratio_low", "hazard_ratio_high")
SUPERIORITY = ("first", "second", "superiority", "superiority_low", "superiority_high")
THRESHOLDS = (
    "threshold",
    "sensitivity",
    "sensitivity_low",
    "sensitivity_high",
    "specificity",
    "specificity_low",
    "specificity_high",
)
CALIBRATION = ("quantity", "estimate", "standard_error", "ci_low", "ci_high", "perfect")
NORMAL = float(stats.norm.isf(0.025))


def survival(found: Mapping[str, Any], declared: Mapping[str, Any], key: str) -> Parts:
    """Tell survival curves: groups, hazard ratios, intervals with an event, the curves."""
    curves, group = found["curves"], declared["group"]
    names = [_level(declared, curve["level"]) if group else "all" for curve in curves]
    rows = [{"group": name, **step} for name, curve in zip(names, curves, strict=True) for step in curve["steps"]]
    end = max((step["end"] for curve in curves for step in curve["steps"]), default=1.0)
    drawn = [plots.survival(curves, names=names, unit=str(declared["time"]), end=end, key=key)]
    whole = [{"group": name, **curve} for name, curve in zip(names, curves, strict=True)]
    ratios = [{**one, **{at: _level(declared, one[at]) for at in ("first", "second")}} for one in found.get("ratios") or ()]
    note = (
        ""
        if found["chi2"] is None
        else (f"Log-rank chi-square {cell(found['chi2'])} ({found['df']}), p = {cell(found['p'], p_value=True)}.")
    )
    tables = [table("Groups", ("group", "n", "events", "median"), whole, heads={"median": "median (start of its interval)"})]
    if ratios:
        tables.append(table("Hazard of the second over the first, one step from the log-rank sums (Peto)", HAZARDS, ratios))
    return [*tables, table("Intervals with an event", STEPS, rows)], drawn, note


def _level(declared: Mapping[str, Any], at: int) -> str:
    """Return a level of the group by its name, or by its place where the result does not hold the names."""
    levels = declared.get("levels") or ()
    return str(levels[at]) if at < len(levels) else f"{declared['group']}, level {at + 1}"


def roc(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:
    """Tell a ROC: Youden's point, thresholds, calibration, the curve."""
    rows = [_threshold(point) for point in found["points"]]
    points = sorted((1 - row["specificity"], row["sensitivity"]) for row in rows)
    drawn = [figures.roc(points, key=key, title="ROC")]
    ends = found["auc_interval"]
    shown = f" ({interval(*ends)})" if ends else ""
    note = (
        f"AUC {cell(found['auc'])}{shown}, {found['n_positive']} positive and {found['n_negative']} negative patients; binning "
        f"moves the AUC by at most {cell(found['auc_off_most'])}."
    )
    tables = [
        table("Where sensitivity and specificity are largest together (Youden)", THRESHOLDS, [_threshold(found["youden"])])
    ]
    tables.append(table("Thresholds", THRESHOLDS, rows))
    if one := found["calibration"]:
        groups = [{**group, "group": at + 1} for at, group in enumerate(one["groups"])]
        lines = [
            {
                "quantity": name,
                "estimate": one[name],
                "standard_error": one[f"{name}_error"],
                "ci_low": one[name] - NORMAL * one[f"{name}_error"],
                "ci_high": one[name] + NORMAL * one[f"{name}_error"],
                "perfect": at,
            }
            for at, name in enumerate(("intercept", "slope"))
        ]
        tables.append(table("Calibration: logit of the outcome on the logit of the score", CALIBRATION, lines))
        tables.append(table("Patients by predicted risk", ("group", "n", "observed", "expected"), groups))
        p = cell(one["chi2_p"], p_value=True)
        note += f" Hosmer and Lemeshow's chi-square {cell(one['chi2'])} ({one['chi2_df']}), p = {p}."
    elif found["calibration_diagnosis"]:
        note += f" No calibration: {found['calibration_diagnosis']}."
    return tables, drawn, note


def _threshold(point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "threshold": point["threshold"],
        **{
            name + end: point[name][at]
            for name in ("sensitivity", "specificity")
            for end, at in (("", "estimate"), ("_low", "ci_low"), ("_high", "ci_high"))
        },
    }


def ranks(found: Mapping[str, Any], declared: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    """Tell a rank test: mean ranks, and how often one group is above another."""
    rows = [
        {"level": _level(declared, at), "n": n, "mean_rank": rank}
        for at, (n, rank) in enumerate(zip(found["n"], found["mean_ranks"], strict=True))
    ]
    pairs = [{**one, **{at: _level(declared, one[at]) for at in ("first", "second")}} for one in found.get("pairs") or ()]
    note = f"H({found['df']}) = {cell(found['h'])}, p = {cell(found['p'], p_value=True)}, "
    note += f"\u03b5\u00b2 {cell(found['epsilon_squared'])}."
    if two := found["mann_whitney"]:
        note += f" Mann-Whitney U = {cell(two['u'])}, p = {cell(two['p'], p_value=True)}."
    heads = {"superiority": "P(second > first)"}
    return (
        [
            table("Mean ranks", ("level", "n", "mean_rank"), rows),
            table("How often a patient of the second group is above one of the first", SUPERIORITY, pairs, heads=heads),
        ],
        [],
        note,
    )


def spearman(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    """Tell rank correlations."""
    names = found["names"]
    rows = [
        {
            "pair": f"{names[j]}, {names[i]}",
            **{name: found[name][i][j] for name in ("r", "ci_low", "ci_high", "p", "p_bh", "p_holm")},
        }
        for i in range(len(names))
        for j in range(i)
    ]
    return [table("Pairs", ("pair", "r", "ci_low", "ci_high", "p", "p_bh", "p_holm"), rows)], [], ""


def quantiles(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:
    """Tell quantiles and the histogram they come from."""
    bins = [
        {"from": low, "to": high, "count": count}
        for low, high, count in zip(found["grid"], found["grid"][1:], found["counts"], strict=False)
    ]
    rows = [{**one, "diagnosis": one["diagnosis"] or ""} for one in found["quantiles"]]
    return (
        [
            table("Quantiles", ("probability", "estimate", "low", "high", "diagnosis"), rows, heads=BIN),
            table("Histogram", ("from", "to", "count"), bins),
        ],
        [histogram(found["counts"], grid=found["grid"], quantiles=found["quantiles"], name=str(found["name"]), key=key)],
        "",
    )
