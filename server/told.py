"""The declared analyses as sections of the report: a title, what was run, tables and figures, or why there is no answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from server import figures, told_clusters, told_counts, told_linear
from server.sections import section, without
from server.tables import cell, interval, table
from server.told_linear import Parts

COEFFICIENTS = ("term", "estimate", "standard_error", "ci_low", "ci_high", "z", "p")
ADJUSTED = ("term", "method", "p", "p_holm", "p_bh")
ENDS = ((0, "low"), (1, "high"))
RATIOS = (*COEFFICIENTS, "ratio", "ratio_low", "ratio_high")
LIMITS = ("first", "second", "bias", "bias_low", "bias_high", "bias_p", "sd", "lower_limit", "upper_limit", "limit_error")
CONCORDANCE = ("first", "second", "concordance", "concordance_low", "concordance_high")
ICC = ("kind", "estimate", "ci_low", "ci_high", "f", "df1", "df2", "p")
FIRTH = (
    "the classes are separated: Firth's penalised likelihood (Firth 1993), p-values by its profile likelihood ratio "
    "(Heinze and Schemper 2002), intervals Wald's"
)
TITLES = {
    "logistic": "Logistic regression",
    "ordinal": "Proportional odds",
    "robust": "Least squares with robust errors",
    "fixed-site": "Least squares with an intercept for each hospital",
    "meta-analysis": "Meta-analysis of hospitals",
    "forest": "Meta-analysis with hospitals' own estimates",
    "mixed": "Random intercept of the hospital",
    "cox": "Cox regression",
    "kaplan-meier": "Kaplan-Meier",
    "roc": "ROC",
    "ranks": "Rank test",
    "spearman": "Rank correlation",
    "quantiles": "Histogram and quantiles",
    "k-means": "K-means",
    "mixture": "Gaussian mixture",
    "agreement": "Agreement of readers",
    "combat": "ComBat harmonisation",
}
METHODS = {
    "logistic": "maximum likelihood by Newton's method, or Firth's penalised likelihood where the classes are separated",
    "ordinal": "proportional odds by Newton's method, errors from the observed information (McCullagh 1980)",
    "robust": "least squares, errors HC3 (MacKinnon and White 1985) and clustered by hospital, Breusch-Pagan, Jarque-Bera",
    "fixed-site": "ordinary least squares on deviations from hospitals' means, absorbed inside each hospital (Lovell 1963)",
    "meta-analysis": "each hospital's own least squares, weighted sums; DerSimonian and Laird 1986, Hartung and Knapp 2001",
    "forest": "each hospital's own least squares, weighted sums, and the estimates of those whose policy shows them; "
    "DerSimonian and Laird 1986, Hartung and Knapp 2001",
    "mixed": "restricted maximum likelihood over one variance ratio, the share's interval by the profiled likelihood ratio",
    "cox": "partial likelihood with Efron's ties",
    "kaplan-meier": "product limit with Greenwood's error on the log(-log) scale, the log-rank test, "
    "hazard ratios of pairs by one step from its sums (Peto; Yusuf et al. 1985)",
    "roc": "Mann-Whitney's statistic of binned scores with DeLong's error, Wilson's intervals, Youden's point, and for a "
    "probability calibration (Cox 1958) with Hosmer and Lemeshow's test",
    "ranks": "Kruskal and Wallis' H with midranks, Mann-Whitney for two groups, superiority of pairs with DeLong's interval",
    "spearman": "Pearson's correlation of midranks, intervals after Bonett and Wright (2000)",
    "quantiles": "counts on public bins; no minimum and no maximum",
    "k-means": "Lloyd's algorithm from public seeds, the number of clusters by the simplified silhouette",
    "mixture": "expectation maximisation from the k-means clusters",
    "agreement": "two-way mean squares (Shrout and Fleiss 1979), Bland and Altman's limits, Lin's concordance",
    "combat": "pooled effects from sums centred within hospitals; no hospital's mean left it",
}


def _method(kind: str, found: Mapping[str, Any] | None) -> str:
    """Return what was run: where an analysis may go two ways, the one that it went; both where it has no answer."""
    if found and kind == "logistic":
        firth = found.get("method") == "firth"
        return FIRTH if firth else "maximum likelihood by Newton's method, Wald's intervals, likelihood ratio chi-square"
    if found and kind == "robust" and not found["clustered"]:
        return METHODS[kind].replace(" and clustered by hospital", "")
    if found and kind == "cox" and found.get("stratified") is True:
        return f"{METHODS[kind]}, a baseline for each hospital"
    return METHODS[kind]


def _grid(declared: Mapping[str, Any]) -> str:
    return f", on {declared['bins']} equal bins of the declared bounds" if declared.get("bins") else ""


def told(analyses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return {"title", "note", "absent", "tables", "figures", "method"} per analysis of result["analyses"].

    Every figure has a table. Numbers have four significant digits in tables, all of them in a table's `csv`.
    """
    return [_one(item, key=f"analysis-{at + 1}") for at, item in enumerate(analyses)]


def _one(item: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    kind, declared, found = item["kind"], item["declared"], item.get("result")
    what = declared.get("formula") or ", ".join(_named(declared))
    sums = f"{item['sums']} secure {'sum' if item['sums'] == 1 else 'sums'}"
    applied = ", applied by each hospital to its own rows before every other sum of them" if declared.get("apply") else ""
    made = f"{TITLES[kind]} of {what}: {_method(kind, found)}{_grid(declared)}{applied}; {sums} without noise"
    empty: Parts = ([], [], "")
    tables, drawn, note = _KINDS[kind]({**found, "asked": item["hospitals"]}, declared, key) if found else empty
    out = item.get("left_out") or {}
    marks = {"n": _patients(found), "missing": out.get("patients"), "untold_hospitals": out.get("untold")}
    if rows := item.get("adjusted"):
        columns = ADJUSTED if any(row["method"] for row in rows) else [name for name in ADJUSTED if name != "method"]
        tables = [*tables, table("P-values adjusted for the number of terms (Holm; Benjamini and Hochberg)", columns, rows)]
    missing = [] if found else [{"term": item["term"], "diagnosis": item["diagnosis"]}]
    n = "" if marks["n"] is None else f"n = {marks['n']}"
    counted = f"{n}{without(item.get('left_out'))}".removeprefix("; ")
    counted += ". " if counted else ""
    told_ = f"{counted}{note} {sums.capitalize()} over {len(item['hospitals'])} hospitals, without noise: epsilon is infinite."
    return {
        **section(f"{TITLES[kind]}: {what}", missing, tables=tables, note=told_ if found else ""),
        "figures": drawn,
        "method": made,
        "marks": {**marks, "mechanism": "none", "epsilon": "infinite"},
    }


def _patients(found: Mapping[str, Any] | None) -> int | None:
    """Return how many patients an analysis is about, whatever its result calls them; None without an answer."""
    if not found:
        return None
    if isinstance(found.get("n"), int):
        return int(found["n"])
    if "n_positive" in found:
        return int(found["n_positive"] + found["n_negative"])
    if "curves" in found:
        return int(sum(curve["n"] for curve in found["curves"]))
    counts = found.get("n") or found.get("counts")
    return int(sum(counts)) if counts else None


def _named(declared: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    for key, value in declared.items():
        if key not in {"kind", "apply", "bins", "queries_max", "sizes", "components", "probabilities", "levels"} and value:
            names += [value] if isinstance(value, str) else list(value)
    return names


def _regression(found: Mapping[str, Any], declared: Mapping[str, Any], key: str) -> Parts:
    rows = found["rows"]
    columns = RATIOS if rows and "ratio" in rows[0] else COEFFICIENTS
    ratio = "hazard ratio" if declared["kind"] == "cox" else "odds ratio"
    caption = f"Coefficients, with {ratio}s" if columns is RATIOS else "Coefficients"
    tables = [table(caption, columns, rows, heads={"ratio": ratio})]
    if found.get("thresholds"):
        tables.append(table("Thresholds between levels", COEFFICIENTS, found["thresholds"]))
    slopes = [
        {
            "term": row["term"],
            "estimate": row["estimate"],
            "low": row["ci_low"],
            "high": row["ci_high"],
            "clear": row["ci_low"] > 0 or row["ci_high"] < 0,
        }
        for row in rows
        if row["term"] != "(intercept)"
    ]
    unit = f"log {ratio} per unit of the term" if columns is RATIOS else "change per unit of the term"
    drawn = [figures.coefficients(slopes, unit=unit, key=key)] if slopes else []
    note = ""
    if "chi2" in found:
        p = cell(found["chi2_p"], p_value=True)
        note = f"Likelihood ratio chi-square {cell(found['chi2'])} ({found['chi2_df']}), p = {p}."
    if found.get("method") == "firth":
        note += " The classes are separated: Firth's penalty was used, p-values are its profile likelihood ratio's."
    if "icc" in found:
        reach = f" (95 % interval {interval(found.get('icc_low'), found.get('icc_high'))})" if "icc_low" in found else ""
        if why := found.get("icc_diagnosis"):
            reach = f" (no interval: {why})"
        note = f"Share of the hospitals' variance {cell(found['icc'])}{reach}, {found['hospitals']} hospitals."
    return tables, drawn, note


def _agreement(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    pairs = [
        {
            **pair,
            **{
                f"{name}_{end}": (pair[f"{name}_ci"] or (None, None))[at]
                for name in ("bias", "concordance")
                for at, end in ENDS
            },
            "lower_limit": pair["limits"][0],
            "upper_limit": pair["limits"][1],
        }
        for pair in found["pairs"]
    ]
    heads = {"bias_p": "p", "limit_error": "SE of a limit"}
    tables = [
        table("Intraclass correlation", ICC, found["icc"]),
        table("Bias, first less second, and limits of agreement (Bland and Altman)", LIMITS, pairs, heads=heads),
        table("Concordance (Lin)", CONCORDANCE, pairs),
    ]
    return tables, [], ""


def _combat(found: Mapping[str, Any], declared: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    rows = [
        {
            "feature": name,
            "grand_mean": mean,
            "deviation": sd,
            **{covariate: found["effects"][at][column] for at, covariate in enumerate(found["covariates"])},
        }
        for column, (name, mean, sd) in enumerate(
            zip(found["features"], found["grand_means"], found["deviations"], strict=True)
        )
    ]
    columns = ("feature", "grand_mean", "deviation", *found["covariates"])
    note = "Applied: every other sum of these features is of harmonised values." if declared.get("apply") else ""
    heads = {name: name for name in found["covariates"]}
    return [table("Pooled means, deviations and effects of covariates", columns, rows, heads=heads)], [], note


_KINDS = {
    "logistic": _regression,
    "ordinal": _regression,
    "robust": told_linear.robust,
    "fixed-site": told_linear.absorbed,
    "meta-analysis": told_linear.meta,
    "forest": told_linear.meta,
    "mixed": _regression,
    "cox": _regression,
    "kaplan-meier": told_counts.survival,
    "roc": told_counts.roc,
    "ranks": told_counts.ranks,
    "spearman": told_counts.spearman,
    "quantiles": told_counts.quantiles,
    "k-means": told_clusters.clusters,
    "mixture": told_clusters.clusters,
    "agreement": _agreement,
    "combat": _combat,
}
