"""Groups of a noisy Gram become a one-way analysis of variance with Tukey and Kramer's pairs: one variance, noise counted.

group_means.py says how. Read from the sums of groups it needs fewer patients than the normal equations of the factor's
indicators need (least_squares.py), which know nothing of what indicators are.
Source: Fisher 1925; Tukey 1953; Kramer 1956.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from server.infer import adjust
from server.infer.private import bootstrap, group_means
from server.infer.private.generator import generator
from server.infer.private.group_means import CONFIDENCE, GroupMeans
from server.infer.private.group_sums import GroupSums


def compare(sums: GroupSums, *, draws: int = bootstrap.DRAWS) -> dict[str, Any]:
    """Return {"n", "df", "rows" (the F test), "means", "pairs"} of groups that have one variance.

    Means: level, n (noisy, rounded), mean, standard_error, ci_low, ci_high, width_ratio. Pairs: difference with its standard
    error, t, p, an interval of each alone, p_holm, width_ratio, and p_tukey with an interval that hold for all together.
    Raises NotEstimable "too noisy", named after the level whose size does not stand out of the noise. Equal sums give equal
    results.
    """
    held = group_means.told(sums, pooled=True)
    random = generator(sums.key, f"one variance\n{sums.outcome}\n{sums.factor}".encode())
    f, p = group_means.f_test(held, sums=sums, over=_nothing, draws=draws, random=random)
    pairs = group_means.all_pairs(held, sums=sums, draws=draws, random=random)
    k, size = len(sums.levels), float(held.n.sum())
    between, alone = group_means.beyond(held)
    rows = []
    for at, (first, second) in enumerate(zip(*(one.tolist() for one in pairs.where), strict=True)):
        difference, error = sums.half * float(pairs.difference[at]), sums.half * float(pairs.error[at])
        told, df = _told(held, sums=sums, groups=(first, second), value=difference, of="difference")
        row = {"first": sums.levels[first], "second": sums.levels[second], **told, "t": difference / error}
        row |= {"p": 2 * float(stats.t.sf(abs(difference / error), df)), "p_tukey": pairs.p[at]}
        row |= {"tukey_low": None, "tukey_high": None}
        if pairs.critical is not None:
            row |= {"tukey_low": difference - pairs.critical * error, "tukey_high": difference + pairs.critical * error}
        rows.append(row)
    for row, p_holm in zip(rows, adjust.holm([row["p"] for row in rows]).tolist(), strict=True):
        row["p_holm"] = p_holm
    omega = (between - alone) / (between + size - (k - 1))
    values = [sums.centre + sums.half * float(mean) for mean in held.mean]
    means = [_told(held, sums=sums, groups=(at,), value=value, of="mean")[0] for at, value in enumerate(values)]
    sizes = zip(sums.levels, held.n.tolist(), means, strict=True)
    return {
        "n": round(size),
        "df": size - k,
        "rows": [{"term": sums.factor, "df": k - 1, "f": f, "p": p, "omega_squared": omega}],
        "means": [{"level": level, "n": round(n), **mean} for level, n, mean in sizes],
        "pairs": rows,
    }


def _nothing(_: GroupMeans) -> NDArray[np.float64]:
    return np.ones(())


def _told(
    held: GroupMeans, *, sums: GroupSums, groups: tuple[int, ...], value: float, of: str
) -> tuple[dict[str, float], float]:
    """Return a mean, or a difference of two, with its interval, and the degrees of freedom of its t."""
    per_variance = sum(1 / float(held.n[at]) for at in groups)
    square = sum(float(held.spread[at, at]) for at in groups)
    if len(groups) == 2:
        square -= 2 * float(held.spread[groups])
    df, reach = group_means.student(held, sums=sums, square=square, per_variance=per_variance, at=0)
    bare = float(stats.t.isf((1 - CONFIDENCE) / 2, float(held.df[0]))) * math.sqrt(per_variance * float(held.variance[0]))
    ends = {"ci_low": value - sums.half * reach, "ci_high": value + sums.half * reach, "width_ratio": reach / bare}
    return {of: value, "standard_error": sums.half * math.sqrt(square), **ends}, df
