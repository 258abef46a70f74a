"""The demo's proof that the federation's numbers are right: the pooled table, which only the demo may see, and statsmodels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import statsmodels.api as sm
from numpy.typing import NDArray

from client import shelf
from common.study import Study


def pooled_table(hospitals: Sequence[Path], *, study: Study) -> NDArray[np.float64]:
    """Return the complete rows of all hospitals, columns as in study.columns(); reads what the vaults keep."""
    rows = []
    for home in hospitals:
        for path in (home / "cohorts").glob("*.npz"):
            cohort = shelf.load(path)
            table = cohort.table[:, [cohort.columns.index(name) for name in study.columns()]]
            rows.append(table[np.isfinite(table).all(axis=1)])
    return np.concatenate(rows)


def correlation_difference(result: dict[str, Any], pooled: NDArray[np.float64], *, study: Study) -> float:
    """Return the largest absolute difference to numpy's correlation matrix of the pooled table."""
    columns = study.columns()
    wanted = [columns.index(name) for name in result["correlation"]["names"]]
    federated = np.array(result["correlation"]["r"], dtype=np.float64)
    return float(np.abs(federated - np.corrcoef(pooled[:, wanted], rowvar=False)).max())


def regression_difference(result: dict[str, Any], pooled: NDArray[np.float64], *, study: Study) -> float:
    """Return the largest relative difference to statsmodels' OLS of the pooled table: estimates, errors, t, p, R²."""
    columns, wanted = study.columns(), study.statistics.regression
    x = sm.add_constant(pooled[:, [columns.index(name) for name in wanted.predictors]])
    fitted = sm.OLS(pooled[:, columns.index(wanted.outcome)], x).fit(method="qr")
    rows = result["ols"]["rows"]
    ours = np.array([[row[key] for row in rows] for key in ("estimate", "standard_error", "t", "p")])
    theirs = np.array([fitted.params, fitted.bse, fitted.tvalues, fitted.pvalues])
    relative = np.abs(ours - theirs) / np.abs(theirs)
    return max(float(relative.max()), float(abs(result["ols"]["r_squared"] - fitted.rsquared) / fitted.rsquared))
