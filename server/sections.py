"""The linear family's results as sections of the report: titles, tables of cells, and why a part is absent."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from server.plots_adjusted import adjusted
from server.tables import Table, cell, interval, table

COEFFICIENTS = ("term", "estimate", "standard_error", "ci_low", "ci_high", "t", "p", "vif")
EFFECTS = ("term", "df", "sum_of_squares", "f", "p", "eta_squared", "ci_low", "ci_high", "omega_squared")
PAIRS = (
    "first",
    "second",
    "difference",
    "standard_error",
    "ci_low",
    "ci_high",
    "q",
    "df",
    "p",
    "hedges_g",
    "hedges_g_low",
    "hedges_g_high",
)
CONTRASTS = (
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
    "standardised",
    "standardised_low",
    "standardised_high",
)
MEANS = ("level", "n", "mean", "sd", "ci_low", "ci_high")
ADJUSTED = ("level", "mean", "standard_error", "ci_low", "ci_high")
COMPONENTS = "Of the correlation matrix; intervals are those of a normal population, an approximation for correlations."
ETA = "partial \u03b7\u00b2"
OMEGA = "\u03c9\u00b2"
CORRELATION = ("pair", "r", "ci_low", "ci_high", "p", "p_bh", "p_holm")
REGRESSION = (*COEFFICIENTS, "standardised")
NUMBERS = ("name", "unit", "mean", "sd", "ci_low", "ci_high")
SHARES = ("name", "level", "count", "share", "ci_low", "ci_high")


def sections(part: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return {"title", "note", "absent", "tables", "figures"} per analysis of result["linear"]; none where there is none.

    Tables are those of server/tables.py; what is absent is a dash.
    """
    if not part:
        return []
    found = []
    if one := part.get("table_one"):
        note = f"{one['n']} patients with a value in every column{without(part.get('left_out'))}. "
        note += "There is no minimum or maximum: each is one patient's value."
        tables = [table("Numbers", NUMBERS, one["numbers"]), table("Levels", SHARES, one["shares"])]
        found.append(section("Table 1", [one], tables=tables, note=note))
    found += [_model(one, key=f"model-{at}") for at, one in enumerate(part.get("models") or ())]
    found += [_groups(one) for one in part.get("groups") or ()]
    found += [_ancova(one, key=f"ancova-{at}") for at, one in enumerate(part.get("ancova") or ())]
    if one := part.get("partial_correlation"):
        note = "Each pair with all the other variables held fixed; q after Benjamini and Hochberg, p also adjusted after Holm."
        tables = [] if "diagnosis" in one else [table("Pairs", CORRELATION, _pairs(one))]
        found.append(section("Partial correlation", [one], tables=tables, note=note))
    if one := part.get("components"):
        found.append(section("Principal components", [one], tables=_components(one), note=COMPONENTS))
    return found


def first_sections(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the correlation and the regression of a result as `sections` does; the page has a form of its own for them."""
    found = []
    if one := result.get("correlation"):
        if "p_bh" not in one:
            one = {**one, **{name: [[None] * len(one["names"])] * len(one["names"]) for name in ("p_bh", "p_holm")}}
        found.append(section("Correlation", [], tables=[table("Pairs", CORRELATION, _pairs(one))]))
    if one := result.get("ols"):
        rows = one.get("rows") or ()
        found.append(section(f"Regression of {one.get('outcome')}", [], tables=[table("Coefficients", REGRESSION, rows)]))
    return found


def without(told: Mapping[str, Any] | None) -> str:
    """Say how many patients are left out as incomplete, to follow their number; nothing where it is not known.

    A hospital that does not tell left out at least one, and fewer than its smallest cell (common/left_out.py).
    """
    if not told:
        return ""
    patients, few = told["patients"], told["untold"]
    if not few:
        return f"; {patients} left out as incomplete"
    where = f"{few} {'hospital' if few == 1 else 'hospitals'} left out at least one each, fewer than they tell"
    return f"; {patients} left out as incomplete, and {where}" if patients else f"; {where}"


def _model(one: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    fit, kinds, means = one["fit"], one["anova"], one.get("means") or []
    tables = [] if "diagnosis" in fit else [table("Coefficients", COEFFICIENTS, fit["rows"])]
    for kind, made in kinds.items():
        if "diagnosis" not in made:
            caption = f"Analysis of variance, type {kind}; residual degrees of freedom {made['df']}; intervals of {ETA}"
            tables.append(table(caption, EFFECTS, made["rows"]))
    drawn = []
    for at, made in enumerate(made for made in means if "diagnosis" not in made):
        tables.append(table(f"Adjusted means of {made['term']}", ADJUSTED, made["means"]))
        tables.append(table(f"Contrasts of {made['term']}", CONTRASTS, made["contrasts"]))
        drawn.append(adjusted(made["means"], outcome=fit["outcome"], of=made["term"], key=f"{key}-{at}"))
    note = "" if "diagnosis" in fit else f"n = {fit['n']}, {_explained(fit)}, residual SD {cell(fit['sigma'])}."
    if drawn:
        note += (
            " Adjusted means weigh the levels of other factors equally, with covariates at their means. Standardised contrasts "
            "are in residual SDs."
        )
    return section(one["formula"], [fit, *kinds.values(), *means], tables=tables, note=note, drawn=drawn)


def _explained(fit: Mapping[str, Any]) -> str:
    return f"R\u00b2 {cell(fit['r_squared'])} ({interval(fit.get('r_squared_low'), fit.get('r_squared_high'))})"


def _groups(one: Mapping[str, Any]) -> dict[str, Any]:
    title = f"{one['outcome']} by {one['factor']}"
    if "diagnosis" in one:
        return section(title, [one], tables=[])
    tables = [
        table("Means, each with its own variance", MEANS, one["means"]),
        table("All pairs, unequal variances (Games-Howell)", PAIRS, one["games_howell"]),
        table("All pairs, equal variances (Tukey-Kramer)", PAIRS, one["tukey"]),
    ]
    ends = interval(one["omega_squared_low"], one["omega_squared_high"])
    omega = one["omega_squared"]
    below = f"; the unbiased estimate, {cell(omega)}, is below 0 as F is below 1" if omega < 0 else ""
    note = (
        f"Welch's F({one['df_between']}, {cell(one['df_within'])}) = {cell(one['f'])}, p = {cell(one['p'], p_value=True)}, "
        f"{OMEGA} {cell(max(0, omega))} ({ends}{below}); n = {one['n']}."
    )
    return section(title, [one], tables=tables, note=note)


def _ancova(one: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    if "diagnosis" in one:
        return section(one["formula"], [one], tables=[])
    slopes = one["slopes"]
    tables = [
        table("Analysis of covariance, type II", EFFECTS, [*one["table"]["rows"], *([slopes] if slopes else [])]),
        table("Means adjusted to the covariates' means", ADJUSTED, one["means"]),
        table("Contrasts of adjusted means", CONTRASTS, one["contrasts"]),
    ]
    told = f"p = {cell(slopes['p'], p_value=True)}" if slopes else f"not estimable ({one['slopes_diagnosis']})"
    note = f"n = {one['n']}. Adjusted means hold where slopes are equal between groups; test of equal slopes: {told}."
    title = f"{one['outcome']} by {one['factor']}, adjusted for {', '.join(one['covariate_means'])}"
    drawn = [adjusted(one["means"], outcome=one["outcome"], of=one["factor"], key=key)]
    return section(title, [one], tables=tables, note=note, drawn=drawn)


def _pairs(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = one["names"]
    return [
        {
            "pair": f"{names[j]}, {names[i]}",
            **{key: one[key][i][j] for key in ("r", "ci_low", "ci_high", "p", "p_bh", "p_holm")},
        }
        for i in range(len(names))
        for j in range(i)
    ]


def _components(one: Mapping[str, Any]) -> list[Table]:
    if "diagnosis" in one:
        return []
    rows = [
        {"component": at + 1, "eigenvalue": value, "ci_low": low, "ci_high": high, "explained": share}
        for at, (value, low, high, share) in enumerate(
            zip(one["eigenvalues"], one["ci_low"], one["ci_high"], one["explained"], strict=True)
        )
    ]
    loadings = [
        {"name": name, **{str(at + 1): value for at, value in enumerate(row)}}
        for name, row in zip(one["names"], one["loadings"], strict=True)
    ]
    return [
        table("Eigenvalues", ("component", "eigenvalue", "ci_low", "ci_high", "explained"), rows),
        table("Loadings", ("name", *(str(at + 1) for at in range(len(rows)))), loadings),
    ]


def section(
    title: str, parts: Sequence[Mapping[str, Any]], *, tables: list[Table], note: str = "", drawn: Sequence[Markup] = ()
) -> dict[str, Any]:
    """Return a section; parts with a diagnosis are told as absent, tables without rows are left out."""
    why = dict.fromkeys(f"{part['term']}: {part['diagnosis']}" for part in parts if "diagnosis" in part)
    shown = [table for table in tables if table["rows"]]
    return {"title": title, "note": note, "absent": "; ".join(why), "tables": shown, "figures": list(drawn)}
