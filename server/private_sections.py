"""The analyses of a noisy Gram as sections of the report: every interval counts the noise, every row says its epsilon."""

from collections.abc import Mapping, Sequence
from typing import Any

from server import figures
from server.figures import number
from server.sections import section
from server.tables import cell, table

LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
MARKS = ("mechanism", "epsilon")
COEFFICIENTS = ("term", "estimate", "standard_error", "ci_low", "ci_high", "t", "p", "standardised", "width_ratio", *MARKS)
PAIRS = ("pair", "r", "ci_low", "ci_high", "p", "p_bh", "p_holm", "width_ratio", *MARKS)
EFFECTS = ("term", "df", "f", "p", "omega_squared", *MARKS)
NUMBERS = ("name", "unit", "mean", "ci_low", "ci_high", "sd", "sd_low", "sd_high", *MARKS)
SHARES = ("name", "level", "count", "share", "ci_low", "ci_high", *MARKS)
MEANS = ("level", "mean", "standard_error", "ci_low", "ci_high", "width_ratio", *MARKS)
DIFFERENCES = (
    "first",
    "second",
    "difference",
    "standard_error",
    "ci_low",
    "ci_high",
    "t",
    "p",
    "p_holm",
    "width_ratio",
    *MARKS,
)
COVARIATES = ("name", "mean", *MARKS)


def sections(part: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return {"title", "note", "absent", "tables", "figures"} per analysis of result["private_gram"]; none without it.

    As server.sections: tables of cells with the same as CSV; what has no number is told as absent. `n` is the noisy number of
    patients everywhere.
    """
    if not part:
        return []
    found = []
    if one := part.get("table_one"):
        tables = (
            [] if "diagnosis" in one else [table("Numbers", NUMBERS, one["numbers"]), table("Levels", SHARES, one["shares"])]
        )
        found.append(section("Table 1", [one], tables=tables, note=_n(one)))
    found.append(_correlation(part["correlation"], title="Correlation", key="heatmap"))
    found.append(_regression(part["ols"], title=f"Regression of {part['ols']['outcome']}", key="coefficients"))
    found += [_model(one, key=f"coefficients-{at}") for at, one in enumerate(part.get("models") or ())]
    found += [_levels(one, title=f"{one['outcome']} by {one['factor']}") for one in part.get("groups") or ()]
    found += [_levels(one, title=one["formula"]) for one in part.get("ancova") or ()]
    if one := part.get("partial_correlation"):
        found.append(_correlation(one, title="Partial correlation", key=None))
    for one in part.get("not_offered") or [part["components"]] if part.get("components") else ():
        why = f" Because {one['why']}." if one.get("why") else ""
        found.append(section(f"{one['term'][:1].upper()}{one['term'][1:]}", [one], tables=[], note=why.strip()))
    return found


def _n(one: Mapping[str, Any]) -> str:
    return "" if "diagnosis" in one else f"About {one['n']} patients (noisy)."


def _correlation(one: Mapping[str, Any], *, title: str, key: str | None) -> dict[str, Any]:
    if "diagnosis" in one:
        return section(title, [one], tables=[])
    names = [str(name) for name in one["names"]]
    where = [(i, j) for i in range(len(names)) for j in range(i)]
    keys = ("r", "ci_low", "ci_high", "p", "p_bh", "p_holm", "width_ratio")
    marks = {name: one[name] for name in MARKS}
    rows = [{"pair": f"{names[j]}, {names[i]}", **{name: one[name][i][j] for name in keys}, **marks} for i, j in where]
    lost = [{"term": name, "diagnosis": "too noisy"} for name in one["too_noisy"]]
    made = section(title, lost, tables=[table("Pairs", PAIRS, rows)], note=_n(one))
    if key:
        stars = [[""] * len(names) for _ in names]
        for i, j in where:
            q = number(one["p_bh"][i][j])
            stars[i][j] = stars[j][i] = "" if q is None else next((mark for level, mark in LEVELS if q < level), "")
        made["figures"] = [figures.heatmap(names, one["r"], stars)]
        made["note"] += " Marks: * q < 0.05, ** q < 0.01, *** q < 0.001, after Benjamini and Hochberg over all pairs."
    return made


def _regression(one: Mapping[str, Any], *, title: str, key: str) -> dict[str, Any]:
    if "diagnosis" in one:
        return section(title, [one], tables=[])
    note = f"{_n(one)} R\u00b2 {cell(one['r_squared'])}, residual standard deviation {cell(one['sigma'])}."
    made = section(title, [], tables=[table("Coefficients", COEFFICIENTS, one["rows"])], note=note)
    made["figures"] = _plot(one, key=key)
    return made


def _plot(one: Mapping[str, Any], *, key: str) -> list[Any]:
    """Draw the coefficients in half widths of the declared bounds: public units, in which an interval stays what it is."""
    drawn = []
    for row in one["rows"]:
        if (factor := number(row["box_ratio"])) is not None:
            low, high = factor * row["ci_low"], factor * row["ci_high"]
            line = {"term": row["term"], "estimate": factor * row["estimate"], "low": low, "high": high}
            drawn.append({**line, "clear": low > 0 or high < 0})
    unit = f"change of {one['outcome']}, in half widths of its declared bounds, per half width of the term's"
    return [figures.coefficients(drawn, unit=unit, key=key)] if drawn else []


def _model(one: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    fit, kinds = one["fit"], one["anova"]
    made = _regression(fit, title=one["formula"], key=key)
    made["tables"] += [
        table(f"Analysis of variance, type {kind}; p by bootstrap", EFFECTS, tested["rows"])
        for kind, tested in kinds.items()
        if "diagnosis" not in tested
    ]
    made["absent"] = made["absent"] or "; ".join(_why(list(kinds.values())))
    return made


def _levels(one: Mapping[str, Any], *, title: str) -> dict[str, Any]:
    if "diagnosis" in one:
        return section(title, [one], tables=[])
    covariates = one.get("covariate_means") or []
    tables = [
        table("F tests, p by bootstrap", EFFECTS, one["rows"]),
        table("Means adjusted to the covariates" if covariates else "Means", MEANS, one["means"]),
        table("Covariates are held at", COVARIATES, covariates),
        table("All pairs", DIFFERENCES, one["pairs"]),
    ]
    note = f"{_n(one)} One variance for all groups; Welch's and Games and Howell's methods are not offered with noise."
    if one.get("slopes_diagnosis"):
        note += f" Equal slopes could not be tested ({one['slopes_diagnosis']})."
    return section(title, [one], tables=tables, note=note)


def _why(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(f"{part['term']}: {part['diagnosis']}" for part in parts if "diagnosis" in part))
