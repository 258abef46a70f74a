"""P-values of a family of tests, adjusted for their number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def benjamini_hochberg(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Return the p-values adjusted to control the false discovery rate; shape as given.

    A nan (no test was made) stays nan and does not count. Valid for independent or positively dependent tests.
    Raises ValueError on a p-value outside 0 ... 1. Source: Benjamini and Hochberg 1995.
    """
    given, made = _checked(p_values)
    adjusted = np.full(given.shape, np.nan)
    if made.any():
        adjusted[made] = stats.false_discovery_control(given[made], method="bh")
    return adjusted


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Return the p-values adjusted to control the family-wise error rate, whatever their dependence; shape as given.

    A nan stays nan and does not count. Raises ValueError on a p-value outside 0 ... 1. Source: Holm 1979.
    """
    given, made = _checked(p_values)
    adjusted = np.full(given.shape, np.nan)
    held = given[made]
    order = np.argsort(held, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(held[order] * np.arange(len(held), 0, -1)))
    back = np.empty(len(held))
    back[order] = stepped
    adjusted[made] = back
    return adjusted


def of_terms(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return term, p, p_holm and p_bh for the terms of a model's `rows`, each method of estimation a family of its own.

    The intercept is no test of interest. Empty where fewer than two terms have a p-value.
    """
    rows = [row for row in result.get("rows") or () if row.get("p") is not None and row.get("term") != "(intercept)"]
    adjusted = []
    for method in dict.fromkeys(row.get("method", "") for row in rows):
        of = [row for row in rows if row.get("method", "") == method]
        if len(of) < 2:
            continue
        p_values = [row["p"] for row in of]
        both = zip(of, holm(p_values).tolist(), benjamini_hochberg(p_values).tolist(), strict=True)
        adjusted += [
            {"term": row["term"], "method": method, "p": row["p"], "p_holm": one, "p_bh": other} for row, one, other in both
        ]
    return adjusted


def _checked(p_values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    given = np.asarray(p_values, dtype=np.float64).reshape(-1)
    made = ~np.isnan(given)
    if np.any((given[made] < 0) | (given[made] > 1)):
        raise ValueError("a p-value is outside 0 ... 1")
    return given, made
