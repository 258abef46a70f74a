"""The declared analyses as sections of the report: a title, what was run, tables and figures, or why there is no answer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from server import figures, plots, told_linear
from server.sections import Table, cell, section, table, without

COEFFICIENTS = ("term", "estimate", "standard_error", "ci_low", "ci_high", "z", "p")
ADJUSTED = ("term", "method", "p", "p_holm", "p_bh")
RATIOS = (*COEFFICIENTS, "ratio", "ratio_low", "ratio_high")
STEPS = ("group", "start", "end", "at_risk", "deaths", "survival", "standard_error", "ci_low", "ci_high")
THRESHOLDS = (
    "threshold",
    "sensitivity",
    "sensitivity_low",
    "sensitivity_high",
    "specificity",
    "specificity_low",
    "specificity_high",
)
PAIRS = ("first", "second", "bias", "sd", "lower_limit", "upper_limit", "concordance", "bias_p")
ICC = ("kind", "estimate", "ci_low", "ci_high", "f", "df1", "df2", "p")
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
    "mixed": "restricted maximum likelihood over one variance ratio",
    "cox": "partial likelihood with Efron's ties",
    "kaplan-meier": "product limit with Greenwood's error on the log(-log) scale, and the log-rank test",
    "roc": "Mann-Whitney's statistic of binned scores with DeLong's error, Wilson's intervals",
    "ranks": "Kruskal and Wallis' H with midranks, Mann-Whitney for two groups",
    "spearman": "Pearson's correlation of midranks, intervals after Bonett and Wright (2000)",
    "quantiles": "counts on public bins; no minimum and no maximum",
    "k-means": "Lloyd's algorithm from public seeds, the number of clusters by the simplified silhouette",
    "mixture": "expectation maximisation from the k-means clusters",
    "agreement": "two-way mean squares (Shrout and Fleiss 1979), Bland and Altman's limits, Lin's concordance",
    "combat": "pooled effects from sums centred within hospitals; no hospital's mean left it",
}


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
    made = f"{TITLES[kind]} of {what}: {METHODS[kind]}{applied}; {sums} without noise"
    empty: Parts = ([], [], "")
    tables, drawn, note = _KINDS[kind]({**found, "asked": item["hospitals"]}, declared, key) if found else empty
    if rows := item.get("adjusted"):
        columns = ADJUSTED if any(row["method"] for row in rows) else [name for name in ADJUSTED if name != "method"]
        tables = [*tables, table("P-values adjusted for the number of terms (Holm; Benjamini and Hochberg)", columns, rows)]
    missing = [] if found else [{"term": item["term"], "diagnosis": item["diagnosis"]}]
    n = f"n = {found['n']}" if found and isinstance(found.get("n"), int) else ""
    counted = f"{n}{without(item.get('left_out'))}".removeprefix("; ")
    counted += ". " if counted else ""
    told_ = f"{counted}{note} {sums.capitalize()} over {len(item['hospitals'])} hospitals, without noise: epsilon is infinite."
    return {
        **section(f"{TITLES[kind]}: {what}", missing, tables=tables, note=told_ if found else ""),
        "figures": drawn,
        "method": made,
    }


def _named(declared: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    for key, value in declared.items():
        if key not in {"kind", "apply", "bins", "queries_max", "sizes", "components", "probabilities"} and value:
            names += [value] if isinstance(value, str) else list(value)
    return names


Parts = tuple[list[Table], list[Markup], str]


def _regression(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:
    rows = found["rows"]
    columns = RATIOS if rows and "ratio" in rows[0] else COEFFICIENTS
    tables = [table("Coefficients" + (", with ratios" if columns is RATIOS else ""), columns, rows)]
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
    unit = "log ratio per unit of the term" if columns is RATIOS else "change per unit of the term"
    drawn = [figures.coefficients(slopes, unit=unit, key=key)] if slopes else []
    note = ""
    if "chi2" in found:
        p = cell(found["chi2_p"], p_value=True)
        note = f"Likelihood ratio chi-square {cell(found['chi2'])} ({found['chi2_df']}), p = {p}."
    if found.get("method") == "firth":
        note += " The classes are separated: Firth's penalty was used."
    if "icc" in found:
        note = f"Share of the hospitals' variance {cell(found['icc'])}, {found['hospitals']} hospitals."
    return tables, drawn, note


def _survival(found: Mapping[str, Any], declared: Mapping[str, Any], key: str) -> Parts:
    curves = found["curves"]
    names = [f"{declared['group']}, level {curve['level'] + 1}" if declared["group"] else "all" for curve in curves]
    rows = [{"group": name, **step} for name, curve in zip(names, curves, strict=True) for step in curve["steps"]]
    end = max((step["end"] for curve in curves for step in curve["steps"]), default=1.0)
    drawn = [plots.survival(curves, names=names, unit=str(declared["time"]), end=end, key=key)]
    note = (
        ""
        if found["chi2"] is None
        else (f"Log-rank chi-square {cell(found['chi2'])} ({found['df']}), p = {cell(found['p'], p_value=True)}.")
    )
    return [table("Intervals with an event", STEPS, rows)], drawn, note


def _roc(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:
    rows = [
        {
            "threshold": point["threshold"],
            **{
                name + end: point[name][at]
                for name in ("sensitivity", "specificity")
                for end, at in (("", "estimate"), ("_low", "ci_low"), ("_high", "ci_high"))
            },
        }
        for point in found["points"]
    ]
    points = sorted((1 - row["specificity"], row["sensitivity"]) for row in rows)
    drawn = [figures.roc(points, key=key, title="ROC")]
    ends = found["auc_interval"]
    interval = f" ({cell(ends[0])} to {cell(ends[1])})" if ends else ""
    note = f"AUC {cell(found['auc'])}{interval}, {found['n_positive']} positive and {found['n_negative']} negative patients."
    return [table("Thresholds", THRESHOLDS, rows)], drawn, note


def _ranks(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    rows = [
        {"level": at + 1, "n": n, "mean_rank": rank}
        for at, (n, rank) in enumerate(zip(found["n"], found["mean_ranks"], strict=True))
    ]
    note = f"H({found['df']}) = {cell(found['h'])}, p = {cell(found['p'], p_value=True)}."
    if two := found["mann_whitney"]:
        note += f" Mann-Whitney U = {cell(two['u'])}, p = {cell(two['p'], p_value=True)}."
    return [table("Mean ranks", ("level", "n", "mean_rank"), rows)], [], note


def _spearman(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    names = found["names"]
    rows = [
        {
            "pair": f"{names[j]}, {names[i]}",
            "q": found["p_bh"][i][j],
            **{name: found[name][i][j] for name in ("r", "ci_low", "ci_high", "p", "p_holm")},
        }
        for i in range(len(names))
        for j in range(i)
    ]
    return [table("Pairs", ("pair", "r", "ci_low", "ci_high", "p", "q", "p_holm"), rows)], [], ""


def _quantiles(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    bins = [
        {"from": low, "to": high, "count": count}
        for low, high, count in zip(found["grid"], found["grid"][1:], found["counts"], strict=False)
    ]
    rows = [{**one, "diagnosis": one["diagnosis"] or ""} for one in found["quantiles"]]
    return (
        [
            table("Quantiles", ("probability", "estimate", "low", "high", "diagnosis"), rows),
            table("Histogram", ("from", "to", "count"), bins),
        ],
        [],
        "",
    )


def _clusters(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:
    columns = found["columns"]
    centres = np.array(found.get("centres") or found["means"])
    sizes = np.array(found.get("members") or found["weights"], dtype=np.float64)
    spreads = np.array(found["standard_deviations"]) if "means" in found else None
    rows = [
        {"cluster": at + 1, "size": size, **dict(zip(columns, centre, strict=True))}
        for at, (size, centre) in enumerate(zip(found.get("members") or found["weights"], centres.tolist(), strict=True))
    ]
    tables = [table("Centres", ("cluster", "size", *columns), rows)]
    if found.get("candidates"):
        tables.append(table("Number of clusters", ("k", "silhouette", "within", "diagnosis"), found["candidates"]))
    if spreads is not None:
        widths = [{"cluster": at + 1, **dict(zip(columns, row, strict=True))} for at, row in enumerate(spreads.tolist())]
        tables.append(table("Standard deviations", ("cluster", *columns), widths))
    drawn = _plane(centres, sizes / sizes.sum(), spreads, found, key) if len(columns) > 1 else []
    return tables, drawn, "Clusters are drawn as densities made from their sums: no point is a patient."


def _plane(
    centres: np.ndarray, shares: np.ndarray, spreads: np.ndarray | None, found: Mapping[str, Any], key: str
) -> list[Markup]:
    """Draw the clusters in the plane of the first two principal components of the patients' scatter, as the sums give it."""
    n, p = found["n"], centres.shape[1]
    mean = shares @ centres
    between = (centres - mean).T @ ((centres - mean) * shares[:, None])
    if spreads is None:  # k-means: round clusters of one width, in each column's standard deviations
        width = math.sqrt(max(found["within"] / (n * p), 1e-12))
        scale = np.sqrt(np.diag(between) / max(1 - width**2, 1e-6))
        within = [np.eye(p) * width**2] * len(centres)
    else:
        scale = np.sqrt(np.diag(between) + shares @ spreads**2)
        within = [np.diag((row / scale) ** 2) for row in spreads]
    if not np.all(scale > 0):
        return []
    z = (centres - mean) / scale
    total = z.T @ (z * shares[:, None]) + sum(share * one for share, one in zip(shares, within, strict=True))
    axes = np.linalg.eigh(total)[1][:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), [0, 1]])
    groups = [
        {"centre": axes.T @ at, "spread": axes.T @ one @ axes, "share": share}
        for at, one, share in zip(z, within, shares.tolist(), strict=True)
    ]
    return [plots.clusters(groups, axes=("first principal component", "second principal component"), key=key)]


def _agreement(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:  # noqa: ARG001
    pairs = [{**pair, "lower_limit": pair["limits"][0], "upper_limit": pair["limits"][1]} for pair in found["pairs"]]
    return [table("Intraclass correlation", ICC, found["icc"]), table("Pairs of readers", PAIRS, pairs)], [], ""


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
    return [table("Pooled means, deviations and effects of covariates", columns, rows)], [], note


_KINDS = {
    "logistic": _regression,
    "ordinal": _regression,
    "robust": told_linear.robust,
    "fixed-site": told_linear.absorbed,
    "meta-analysis": told_linear.meta,
    "forest": told_linear.meta,
    "mixed": _regression,
    "cox": _regression,
    "kaplan-meier": _survival,
    "roc": _roc,
    "ranks": _ranks,
    "spearman": _spearman,
    "quantiles": _quantiles,
    "k-means": _clusters,
    "mixture": _clusters,
    "agreement": _agreement,
    "combat": _combat,
}
