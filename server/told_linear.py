"""Linear models by declared analyses, told: robust errors, absorbed hospitals, and meta-analysis with its forest plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from server import figures, plots
from server.tables import Table, cell, interval, table

ROBUST = ("term", "estimate", "standard_error", "ci_low", "ci_high", "t", "df", "p", "vif")
STANDARDISED = ("term", "standardised", "standardised_low", "standardised_high")
TESTS = ("test", "statistic", "df", "p")
SHAPE = ("skewness", "kurtosis")
ABSORBED = ("term", "estimate", "standard_error", "ci_low", "ci_high", "t", "p", "vif", "standardised")
SHARES = ("term", "partial_eta_squared", "eta_low", "eta_high")
COMBINED = (
    "term",
    "method",
    "estimate",
    "standard_error",
    "ci_low",
    "ci_high",
    "statistic",
    "df",
    "p",
    "prediction_low",
    "prediction_high",
)
SPREAD = ("term", "hospitals", "q", "df", "p", "i_squared", "i_squared_low", "i_squared_high", "tau_squared")
HOSPITALS = ("term", "hospital", "n", "estimate", "standard_error", "ci_low", "ci_high")
NOT_SHOWN = "not shown"
INTERCEPT = "(intercept)"

Found = Mapping[str, Any]
Parts = tuple[list[Table], list[Markup], str]


def robust(found: Found, _: Found, key: str) -> Parts:
    """Tell robust errors: a table a kind, tests of the residuals, and why clustered errors are absent."""
    tables = [table("Coefficients, errors HC3", ROBUST, found["rows"])]
    if found["clustered"]:
        tables.append(table("Coefficients, errors clustered by hospital", ROBUST, found["clustered"]))
    tests = [
        {"test": "equal variances (Breusch-Pagan)", "statistic": found["breusch_pagan"], "p": found["breusch_pagan_p"]},
        {"test": "normal residuals (Jarque-Bera)", "statistic": found["jarque_bera"], "p": found["jarque_bera_p"]},
    ]
    degrees = (len(found["rows"]) - 1, 2)
    tables += [
        table("Standard deviations of the outcome per standard deviation, HC3", STANDARDISED, found["rows"][1:]),
        table("Residuals", TESTS, [{**test, "df": df} for test, df in zip(tests, degrees, strict=True)]),
        table("Shape of the residuals (0 and 3 for a normal distribution)", SHAPE, [found]),
    ]
    note = f"R\u00b2 {cell(found['r_squared'])}, residual SD {cell(found['sigma'])}."
    if not found["clustered"]:
        note += (
            " No errors clustered by hospital: they need more hospitals than coefficients, and three that do not work with "
            "the coordinator."
        )
    elif found["hospitals"] < 30:
        note += f" Errors clustered by {found['hospitals']} hospitals are rough: they assume many."
    return tables, _drawn(found["rows"], key, outcome=found["outcome"]), note


def absorbed(found: Found, _: Found, key: str) -> Parts:
    """Tell a fit within hospitals."""
    tables = [
        table("Slopes within hospitals", ABSORBED, found["rows"]),
        table("Share that a term explains of what the others leave", SHARES, found["rows"]),
    ]
    note = (
        f"{found['hospitals']} hospitals, each with an intercept that never left it; within them R\u00b2 "
        f"{cell(found['r_squared'])}, F = {cell(found['f'])}, p = {cell(found['f_p'], p_value=True)}."
    )
    return tables, _drawn(found["rows"], key, outcome=found["outcome"], where=" within hospitals"), note


def meta(found: Found, declared: Found, key: str) -> Parts:
    """Tell a meta-analysis: combined estimates, heterogeneity, hospitals that show theirs, a forest plot a term."""
    asked: Sequence[str] = found["asked"]
    terms = [row["term"] for row in found["heterogeneity"]]
    forest = declared["kind"] == "forest"
    listed = _listed(found["by_hospital"], asked=asked, terms=terms) if forest else []
    tables = [
        table("Combined over hospitals", COMBINED, found["rows"]),
        table("Heterogeneity", SPREAD, found["heterogeneity"], heads={"q": "Q"}),
    ]
    if listed:
        tables.append(table("Hospitals that show their estimates, as sent", HOSPITALS, listed))
    drawn = [_forest(row, listed, found["rows"], key=f"{key}-{at + 1}") for at, row in enumerate(found["heterogeneity"])]
    spread = "; ".join(
        f"{row['term']}: I\u00b2 {cell(row['i_squared'])} ({interval(row['i_squared_low'], row['i_squared_high'])}), "
        f"Q({row['df']}) = {cell(row['q'])}, p = {cell(row['p'], p_value=True)}"
        for row in found["heterogeneity"]
    )
    note = f"{found['hospitals']} hospitals had a fit of their own. {spread}."
    if len(asked) > found["hospitals"]:
        note += f" {len(asked) - found['hospitals']} of {len(asked)} had none and added nothing; which is not known."
    if listed:
        note += " Rows of hospitals are as sent: that no hospital filled another's place is not proven."
    if found["random_absent"]:
        note += f" No random effects ({found['random_absent']})."
    if found["shown_absent"]:
        note += f" No hospital's estimates ({found['shown_absent']})."
    return tables, drawn, note


def _listed(rows: Sequence[Found], *, asked: Sequence[str], terms: Sequence[str]) -> list[dict[str, Any]]:
    known = {(row["term"], row["place"]): row for row in rows}
    return [
        {"hospital": name, **known[term, place]}
        if (term, place) in known
        else {"term": term, "hospital": f"{name} ({NOT_SHOWN})"}
        for term in terms
        for place, name in enumerate(asked)
    ]


def _forest(spread: Found, listed: Sequence[Found], combined: Sequence[Found], *, key: str) -> Markup:
    term = spread["term"]
    hospitals = [
        {
            "name": str(row["hospital"]).removesuffix(f" ({NOT_SHOWN})"),
            "estimate": row.get("estimate"),
            "low": row.get("ci_low"),
            "high": row.get("ci_high"),
            "weight": 1 / row["standard_error"] ** 2 if "standard_error" in row else None,
        }
        for row in listed
        if row["term"] == term
    ]
    diamonds = [
        {
            "name": row["method"].replace("random effects, ", "random, "),
            "estimate": row["estimate"],
            "low": row["ci_low"],
            "high": row["ci_high"],
        }
        for row in combined
        if row["term"] == term
    ]
    note = (
        f"I\u00b2 {cell(100 * spread['i_squared'])} %, Q({spread['df']}) = {cell(spread['q'])}, "
        f"p = {cell(spread['p'], p_value=True)}, \u03c4\u00b2 {cell(spread['tau_squared'])}"
    )
    return plots.forest(hospitals, diamonds, term=term, note=note, key=key)


def _drawn(rows: Sequence[Found], key: str, *, outcome: str, where: str = "") -> list[Markup]:
    """Draw the slopes: standardised, so that one axis fits them all, where every one has it; otherwise in their units."""
    slopes = [row for row in rows if row["term"] != INTERCEPT]
    standard = all(figures.number(row.get("standardised")) is not None and row["estimate"] for row in slopes)
    drawn = []
    for row in slopes:
        factor = row["standardised"] / row["estimate"] if standard else 1.0
        low, high = factor * row["ci_low"], factor * row["ci_high"]
        line = {"term": row["term"], "estimate": factor * row["estimate"], "low": low, "high": high}
        drawn.append({**line, "clear": low > 0 or high < 0})
    unit = f"change of {outcome}, in its standard deviations{where}, per standard deviation"
    return [figures.coefficients(drawn, unit=unit if standard else f"change of {outcome} per unit of the term", key=key)]
