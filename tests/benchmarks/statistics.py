"""All linear analyses beside statsmodels on the pooled table: `make bench-statistics` writes out/bench/statistics.json.

Ours is everything that a hospital and the coordinator compute, in one process, hospitals one after another: columns, disclosure
rules, exact Gram, masks for every pair, the sum, and all results. statsmodels (numpy, scipy) gets the pooled table ready
made. Wall time; synthetic rows. VIFs are read from the inverse correlation on their side too: statsmodels' own
function fits one regression a column.
"""

import argparse
import json
import os
import platform
import re
import resource
import time
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.multivariate.pca import PCA
from statsmodels.stats.oneway import anova_oneway

from client import columns, disclosure, summarise
from client.inside import Cohort
from client.mask import mask
from common import moments
from common.crypto import ring
from common.ledger.receipt import Receipt
from common.study import Study
from server.infer import correlation, family, regression
from tests import federation
from tests.policies import policy

OUT = Path(__file__).parents[2] / "out" / "bench" / "statistics.json"
GRADES, SEXES = ("g1", "g2", "g3"), ("f", "m")
MODELS = ("v0 ~ grade * sex + v1 + v2", "v1 ~ grade + v2 + v3 + v4", "v2 ~ sex * v5 + v6")
P_LEAST = 1e-290  # below it a p of either side may have lost digits to underflow
BARS = {"ratio_vs_statsmodels": 1.0, "max_rel_diff": 1e-10}


def main() -> None:
    """Run both sides, compare, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=20)
    parser.add_argument("--patients", type=int, default=50_000, help="per hospital")
    parser.add_argument("--variables", type=int, default=60)
    options = parser.parse_args()
    held = study(options.variables)
    cohorts = [cohort(held, patients=options.patients, seed=at) for at in range(options.hospitals)]
    ours, seconds, size = federated(held, cohorts)
    frame = pooled(held, cohorts)
    del cohorts
    theirs, seconds_theirs = by_statsmodels(frame, held)
    difference = {name: differ(ours[name], theirs[name]) for name in theirs}
    told = {
        "hospitals": options.hospitals,
        "patients": options.hospitals * options.patients,
        "variables": options.variables,
        "columns_of_the_gram": len(held.columns()),
        "seconds": seconds,
        "seconds_statsmodels": seconds_theirs,
        "ratio_vs_statsmodels": round(seconds["total"] / seconds_theirs["total"], 4),
        "bytes_per_hospital": size,
        "max_rel_diff": difference,
        "bars": BARS,
        "met": {
            "ratio_vs_statsmodels": seconds["total"] <= BARS["ratio_vs_statsmodels"] * seconds_theirs["total"],
            "max_rel_diff": max(difference.values()) <= BARS["max_rel_diff"],
        },
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "memory_most_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(told, indent=1))
    print(json.dumps(told, indent=1))


def study(variables: int) -> Study:
    """A study over numbers v0, v1, ... and two factors; every linear analysis is asked for."""
    numbers = [f"v{at}" for at in range(variables - 2)]
    clinical = {"source": "clinical", "unit": "1"}
    plain: list[dict[str, Any]] = [{"name": name, **clinical, "lower": Decimal(-64), "upper": Decimal(64)} for name in numbers]
    plain += [{"name": "grade", **clinical, "levels": GRADES}, {"name": "sex", **clinical, "levels": SEXES}]
    return federation.study(
        variables=plain,
        statistics={
            "correlation": numbers,
            "regression": {"outcome": numbers[0], "predictors": numbers[1:]},
            "models": MODELS,
            "groups": [{"outcome": "v3", "factor": "grade"}],
            "ancova": [{"outcome": "v4", "factor": "grade", "covariates": ["v5", "v6"]}],
            "descriptive": numbers,
        },
        training={"label": numbers[0]},
    )


def cohort(held: Study, *, patients: int, seed: int) -> Cohort:
    """One hospital: correlated numbers, two unbalanced factors, an effect of each."""
    random = np.random.default_rng(seed)
    count = len(held.variables) - 2
    factor = random.normal(size=(patients, 3))
    values = random.normal(size=(patients, count)) + factor @ random_loadings(count)
    grade = random.choice(3, patients, p=[0.5, 0.3, 0.2])
    sex = random.choice(2, patients, p=[0.6, 0.4])
    values[:, :8] += 0.1 * grade[:, None] - 0.2 * sex[:, None] + 0.05 * (grade * sex)[:, None]
    return Cohort(
        patients=tuple(map(str, range(patients))),
        columns=tuple(variable.name for variable in held.variables),
        table=np.column_stack([values.clip(-60, 60), grade, sex]),
        views=np.zeros((0, 1, 8, 8), dtype=np.float32),
        bags=tuple(() for _ in range(patients)),
    )


def random_loadings(count: int) -> np.ndarray:
    return np.random.default_rng(12345).normal(size=(3, count)) * 0.4


def pooled(held: Study, cohorts: list[Cohort]) -> pd.DataFrame:
    """The pooled table that statsmodels gets, factors by name."""
    frame = pd.DataFrame(np.concatenate([one.table for one in cohorts]), columns=[v.name for v in held.variables])
    frame["grade"] = pd.Categorical.from_codes(frame["grade"].astype(int), GRADES)
    frame["sex"] = pd.Categorical.from_codes(frame["sex"].astype(int), SEXES)
    return frame


def federated(held: Study, cohorts: list[Cohort]) -> tuple[dict[str, Any], dict[str, float], int]:
    """Return every estimate, error, statistic and p by analysis, the seconds, and what each hospital sends."""
    rule = policy(patients_min=20)
    names = [f"h{at:02d}" for at in range(len(cohorts))]
    keys = {pair: np.random.default_rng(pair[0] * 1000 + pair[1]).bytes(32) for pair in np.ndindex(len(names), len(names))}
    started = time.perf_counter()
    vectors, sent = [], []
    for at, one in enumerate(cohorts):
        table = columns.table(one, columns=held.design(), study=held)
        complete = columns.complete(table)
        disclosure.check_columns(rule, values=table[complete], names=held.columns())
        contribution = summarise.summarise(one, study=held)
        receipt = Receipt(reservation="r/1/h", study=held.hash(), mechanism=contribution.mechanism, sequence=1)
        seeds = {names[to]: keys[min(at, to), max(at, to)] for to in range(len(names)) if to != at}
        sent.append(mask(contribution, receipt=receipt, me=names[at], seeds=seeds))
    hospitals_done = time.perf_counter()
    size = moments.size(len(held.columns()))
    vectors = [ring.from_bytes(data, dimension=size, bits=128) for data in sent]
    opened = ring.decode(ring.total(vectors, dimension=size, bits=128), bits=128).tolist()
    held_moments = moments.from_total(opened, study=held)
    wanted = held.statistics
    found = {
        "correlation": correlation.correlate(held_moments, names=wanted.correlation).plain(),
        "regression": regression.fit(
            held_moments, outcome=wanted.regression.outcome, predictors=wanted.regression.predictors
        ).plain(),
        **family.read(held_moments, study=held),
    }
    done = time.perf_counter()
    seconds = {
        "total": done - started,
        "hospitals": hospitals_done - started,
        "hospital_each": (hospitals_done - started) / len(names),
        "coordinator": done - hospitals_done,
    }
    return figures(found), {key: round(value, 3) for key, value in seconds.items()}, len(sent[0])


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """The numbers that are compared, in the order in which by_statsmodels gives them."""
    upper = np.triu_indices(len(found["correlation"]["names"]), 1)
    rows = found["regression"]["rows"]
    made = {
        "correlation r": np.array(found["correlation"]["r"])[upper],
        "correlation p": np.array(found["correlation"]["p"])[upper],
        "regression": [[row[key] for row in rows] for key in ("estimate", "standard_error", "t", "p")],
        "regression vif": [row["vif"] for row in rows[1:]],
        "partial correlation": np.array(found["partial_correlation"]["r"])[upper],
        "components": found["components"]["eigenvalues"],
        "table one": [[row["mean"], row["sd"]] for row in found["table_one"]["numbers"]],
        "welch": [found["groups"][0][key] for key in ("f", "df_within", "p")],
        "ancova": [[row["f"], row["p"]] for row in found["ancova"][0]["table"]["rows"]],
        "ancova slopes": [found["ancova"][0]["slopes"][key] for key in ("f", "p")],
    }
    for one in found["models"]:
        fit = one["fit"]["rows"]
        made[f"model {one['formula']}"] = sorted((row["estimate"], row["standard_error"], row["t"], row["p"]) for row in fit)
        for kind, table in one["anova"].items():
            made[f"anova {kind} {one['formula']}"] = [[row["f"], row["p"]] for row in table["rows"]]
    return made


def by_statsmodels(frame: pd.DataFrame, held: Study) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the same numbers from the pooled table, and the seconds."""
    made: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = round(now - last, 3), now

    names = list(held.statistics.correlation)
    x = frame[names].to_numpy()
    n, p = x.shape
    upper = np.triu_indices(p, 1)
    r = np.corrcoef(x, rowvar=False)
    made["correlation r"] = r[upper]
    made["correlation p"] = 2 * stats.beta.sf((np.abs(r[upper]) + 1) / 2, (n - 2) / 2, (n - 2) / 2)
    inverse = np.linalg.inv(r)
    scale = np.sqrt(np.diag(inverse))
    made["partial correlation"] = (-inverse / np.outer(scale, scale))[upper]
    made["table one"] = np.column_stack([x.mean(axis=0), x.std(axis=0, ddof=1)])
    lap("correlation, partial correlation, Table 1")
    made["components"] = PCA(x, standardize=True, method="eig").eigenvals / n
    lap("components")
    fitted = sm.OLS(x[:, 0], sm.add_constant(x[:, 1:])).fit()
    made["regression"] = [fitted.params, fitted.bse, fitted.tvalues, fitted.pvalues]
    made["regression vif"] = np.diag(np.linalg.inv(np.corrcoef(x[:, 1:], rowvar=False)))
    lap("regression")
    for formula, one in zip(MODELS, (held.model(text).formula for text in MODELS), strict=True):
        fitted = smf.ols(formula, frame).fit()
        made[f"model {one}"] = sorted(zip(fitted.params, fitted.bse, fitted.tvalues, fitted.pvalues, strict=True))
        summed = smf.ols(formula.replace("grade", "C(grade, Sum)").replace("sex", "C(sex, Sum)"), frame).fit()
        for kind, fit, number in (("I", fitted, 1), ("II", fitted, 2), ("III", summed, 3)):
            table = sm.stats.anova_lm(fit, typ=number).drop(index=["Residual", "Intercept"], errors="ignore")
            order = sorted(table.index, key=lambda term: written(term, one))
            made[f"anova {kind} {one}"] = table.loc[order, ["F", "PR(>F)"]].to_numpy()
        lap(f"model {one}")
        made[f"anova I {one}"] = in_order(fitted, one)  # patsy puts factors first, and type I depends on the order
        last = time.perf_counter()
    welch = anova_oneway(frame["v3"], frame["grade"], use_var="unequal")
    made["welch"] = [welch.statistic, welch.df_denom, welch.pvalue]
    lap("welch")
    table = sm.stats.anova_lm(smf.ols("v4 ~ grade + v5 + v6", frame).fit(), typ=2)
    made["ancova"] = table.loc[["grade", "v5", "v6"], ["F", "PR(>F)"]].to_numpy()
    slopes = smf.ols("v4 ~ grade * (v5 + v6)", frame).fit()
    restricted = np.eye(len(slopes.params))[[at for at, name in enumerate(slopes.params.index) if ":" in name]]
    test = slopes.f_test(restricted)  # compare_f_test subtracts two sums of squares and keeps eight digits here
    made["ancova slopes"] = [float(test.fvalue), float(test.pvalue)]
    lap("ancova")
    seconds["total"] = round(sum(seconds.values()), 3)
    return made, seconds


def in_order(fitted: Any, formula: str) -> list[list[float]]:
    """Type I tests in the order of `formula`, from the QR decomposition of statsmodels' own design."""
    design, model = fitted.model.exog, fitted.model
    terms = [re.sub(r"\[[^]]*\]", "", name) for name in model.exog_names]
    order = sorted(range(len(terms)), key=lambda at: -1 if terms[at] == "Intercept" else written(terms[at], formula))
    q, _ = np.linalg.qr(design[:, order])
    effects = q.T @ model.endog
    sizes = Counter(terms[at] for at in order)  # in the order in which they come
    ends = np.cumsum(list(sizes.values()))
    tests = []
    for start, end in pairwise(ends.tolist()):
        f = float((effects[start:end] ** 2).sum()) / (end - start) / fitted.mse_resid
        tests.append([f, float(stats.f.sf(f, end - start, fitted.df_resid))])
    return tests


def written(term: str, formula: str) -> int:
    """Where our expanded formula writes a term of statsmodels."""
    plain = term.replace("C(grade, Sum)", "grade").replace("C(sex, Sum)", "sex")
    return [part.strip() for part in formula.split("~")[1].split("+")].index(plain)


def differ(ours: Any, theirs: Any) -> float:
    """The largest relative difference; values that underflowed on either side are left out."""
    a, b = np.asarray(ours, dtype=float).ravel(), np.asarray(theirs, dtype=float).ravel()
    some = (np.abs(a) > P_LEAST) & (np.abs(b) > P_LEAST)
    return float(np.max(np.abs(a - b)[some] / np.abs(b[some]), initial=0.0))


if __name__ == "__main__":
    main()
