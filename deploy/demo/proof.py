"""The demo's proof that the federation's numbers are right: the pooled table, which only the demo may see, and statsmodels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from statsmodels.stats.anova import anova_lm

from client import columns, shelf
from common import formula
from common.study import Study

Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """The complete rows of all hospitals: `table` (patients, study.columns()), and the variables with their hospital."""

    table: Figures
    variables: pd.DataFrame


def pooled(hospitals: Sequence[Path], *, study: Study) -> Pooled:
    """Read what the vaults keep, as the study's statistics see it."""
    tables, frames = [], []
    for home in hospitals:
        for path in (home / "cohorts").glob("*.npz"):
            cohort = columns.complete_cases(shelf.load(path), study=study)
            table = columns.table(cohort, columns=study.design(), study=study)
            whole = columns.complete(table)
            tables.append(table[whole])
            frames.append(pd.DataFrame(cohort.table[whole], columns=list(cohort.columns)).assign(hospital=home.name))
    return Pooled(table=np.concatenate(tables), variables=pd.concat(frames, ignore_index=True))


def correlation_difference(result: dict[str, Any], pooled: Pooled, *, study: Study) -> float:
    """Return the largest absolute difference to numpy's correlation matrix of the pooled table."""
    names = study.columns()
    wanted = [names.index(name) for name in result["correlation"]["names"]]
    federated = np.array(result["correlation"]["r"], dtype=np.float64)
    return float(np.abs(federated - np.corrcoef(pooled.table[:, wanted], rowvar=False)).max())


def regression_difference(result: dict[str, Any], pooled: Pooled, *, study: Study) -> float:
    """Return the largest relative difference to statsmodels' OLS of the pooled table: estimates, errors, t, p, R²."""
    names, wanted = study.columns(), study.statistics.regression
    x = sm.add_constant(pooled.table[:, [names.index(name) for name in wanted.predictors]])
    fitted = sm.OLS(pooled.table[:, names.index(wanted.outcome)], x).fit(method="qr")
    told = result["ols"]
    return max(_rows(told["rows"], fitted), _difference([told["r_squared"]], [fitted.rsquared]))


def analyses_difference(result: dict[str, Any], pooled: Pooled) -> float:
    """Return the largest relative difference to statsmodels of what else the demo's study asks, on the pooled table.

    Analyses of covariance (F, p of type II), least squares with HC3 errors, and with an indicator for every hospital.
    """
    found = []
    for told in result["linear"]["ancova"]:
        fitted = sm.OLS.from_formula(told["formula"], pooled.variables).fit(method="qr")
        theirs = anova_lm(fitted, typ=2)
        rows = told["table"]["rows"]
        found += [_difference([row["f"], row["p"]], theirs.loc[row["term"], ["F", "PR(>F)"]]) for row in rows]
    for told in result["analyses"]:
        if told["kind"] not in {"robust", "fixed-site"}:
            continue
        parsed = formula.parse(told["declared"]["formula"])
        terms = [row["term"] for row in told["result"]["rows"] if row["term"] != "(intercept)"]
        x = pooled.variables[terms].to_numpy()
        if told["kind"] == "fixed-site":
            sites = pd.get_dummies(pooled.variables["hospital"]).to_numpy(dtype=np.float64)
            fitted = sm.OLS(pooled.variables[parsed.outcome.variable], np.hstack([x, sites])).fit(method="qr")
        else:
            plain = sm.OLS(pooled.variables[parsed.outcome.variable], sm.add_constant(x)).fit(method="qr")
            fitted = plain.get_robustcov_results("HC3", use_t=True)
        found.append(_rows(told["result"]["rows"], fitted))
    return max(found)


def _rows(rows: Sequence[dict[str, Any]], fitted: Any) -> float:  # noqa: ANN401  (a result of statsmodels has no type)
    theirs = {"estimate": fitted.params, "standard_error": fitted.bse, "t": fitted.tvalues, "p": fitted.pvalues}
    return max(_difference([row[key] for row in rows], np.asarray(values)[: len(rows)]) for key, values in theirs.items())


def _difference(ours: Sequence[float], theirs: Any) -> float:  # noqa: ANN401
    expected = np.asarray(theirs, dtype=np.float64)
    return float((np.abs(np.asarray(ours) - expected) / np.abs(expected)).max())
