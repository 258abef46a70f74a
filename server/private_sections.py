"""The analyses of a noisy Gram as sections of the report: every interval counts the noise, every row says its epsilon."""

from collections.abc import Mapping, Sequence
from typing import Any

from server import figures
from server.figures import number
from server.sections import section
from server.tables import cell, stars, table

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
    "p_tukey",
    "tukey_low",
    "tukey_high",
    "width_ratio",
    *MARKS,
)
OWN_MEANS = ("level", "n", "mean", "standard_error", "ci_low", "ci_high", "sd", *MARKS)
OWN_PAIRS = (
    "first",
    "second",
    "difference",
    "standard_error",
    "ci_low",
    "ci_high",
    "t",
    "p_games_howell",
    "hedges_g",
    "hedges_g_low",
    "hedges_g_high",
    *MARKS,
)
COMPONENTS = (
    "component",
    "eigenvalue",
    "ci_low",
    "ci_high",
    "share",
    "share_low",
    "share_high",
    "width_ratio",
    *MARKS,
)
LOADINGS = ("component", "name", "loading", "ci_low", "ci_high", *MARKS)
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
    if one := part.get("components"):
        found.append(_components(one))
    return found


def _components(one: Mapping[str, Any]) -> dict[str, Any]:
    title = "Principal components"
    if "diagnosis" in one:
        return section(title, [one], tables=[])
    note = (
        f"{_n(one)} Of the correlation matrix. Neighbours that noise and sample do not tell apart are one row, with the sum of"
    )
    note += " their eigenvalues; loadings are told of the first components that stand alone."
    tables = [table("Eigenvalues", COMPONENTS, one["rows"]), table("Loadings", LOADINGS, one["loadings"])]
    lost = [{"term": name, "diagnosis": "too noisy"} for name in one["too_noisy"]]
    return section(title, lost, tables=tables, note=note)


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
        drawn = [[""] * len(names) for _ in names]
        for i, j in where:
            drawn[i][j] = drawn[j][i] = stars(one["p_bh"][i][j])
        made["figures"] = [figures.heatmap(names, one["r"], drawn)]
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
    means = one.get("means") or []
    for group in (group for group in means if "diagnosis" not in group):
        heads = {"tukey_low": "95 % interval (Tukey)"}
        made["tables"].append(table(f"Adjusted means of {group['term']}", MEANS, group["means"]))
        made["tables"].append(table(f"All pairs of {group['term']}", DIFFERENCES, group["pairs"], heads=heads))
    made["absent"] = made["absent"] or "; ".join(_why([*kinds.values(), *means]))
    return made


def _levels(one: Mapping[str, Any], *, title: str) -> dict[str, Any]:
    own = one.get("welch") or {}
    parts = [part for part in (one, own) if "diagnosis" in part]
    tables = []
    if "diagnosis" not in one:
        covariates = one.get("covariate_means") or []
        tables = [
            table("F tests, p by bootstrap", EFFECTS, one["rows"]),
            table("Means adjusted to the covariates", MEANS, one["means"])
            if covariates
            else table("Means", ("level", "n", *MEANS[1:]), one["means"]),
            table("Covariates are held at", COVARIATES, covariates),
            table("All pairs", DIFFERENCES, one["pairs"], heads={"tukey_low": "95 % interval (Tukey)"}),
        ]
    if own and "diagnosis" not in own:
        tables += [
            table("Welch's test, p by bootstrap", EFFECTS, own["rows"]),
            table("Means, each with a variance of its own", OWN_MEANS, own["means"]),
            table("All pairs, unequal variances (Games-Howell)", OWN_PAIRS, own["pairs"]),
        ]
    note = _n(one)
    if "diagnosis" not in one:
        note += " F tests and all pairs take one variance for all groups; Tukey's p and interval hold for all pairs together."
    if "diagnosis" in own:
        parts = [*parts[:-1], {**own, "term": f"Welch's test and Games and Howell's pairs: {own['term']}"}]
    if one.get("slopes_diagnosis"):
        note += f" Equal slopes could not be tested ({one['slopes_diagnosis']})."
    return section(title, parts, tables=tables, note=note.strip())


def _why(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(f"{part['term']}: {part['diagnosis']}" for part in parts if "diagnosis" in part))
