"""Groups of a noisy Gram become Welch's test and Games and Howell's pairs: each group has a variance of its own, noise counted.

group_means.py says how; F is divided by Welch's factor, so that without noise it is his.
Source: Welch 1951; Games and Howell 1976; Hedges and Olkin 1985 for g.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from server.infer.private import bootstrap, group_means
from server.infer.private.generator import generator
from server.infer.private.group_means import CONFIDENCE, GroupMeans
from server.infer.private.group_sums import GroupSums

Float = NDArray[np.float64]


def compare(sums: GroupSums, *, draws: int = bootstrap.DRAWS) -> dict[str, Any]:
    """Return {"rows" (Welch's test), "means", "pairs" (Games and Howell)} without the assumption of one variance.

    Means: level, n (noisy, rounded), mean, ci_low, ci_high, sd. Pairs: difference with its standard error, an interval and
    p_games_howell that hold for all pairs together, hedges_g with its own interval.
    Raises NotEstimable "too noisy", named after the level whose size or variance does not stand out of the noise.
    Equal sums give equal results.
    """
    held = group_means.told(sums, pooled=False)
    random = generator(sums.key, f"own variances\n{sums.outcome}\n{sums.factor}".encode())
    f, p = group_means.f_test(held, sums=sums, over=_factor, draws=draws, random=random)
    pairs, half = group_means.all_pairs(held, sums=sums, draws=draws, random=random), sums.half
    omega = _omega_squared(held)
    rows = []
    for at, (first, second) in enumerate(zip(*(one.tolist() for one in pairs.where), strict=True)):
        difference, error = half * float(pairs.difference[at]), half * float(pairs.error[at])
        row = {"first": sums.levels[first], "second": sums.levels[second], "difference": difference, "standard_error": error}
        row |= {"ci_low": None, "ci_high": None}
        if pairs.critical is not None:
            row |= {"ci_low": difference - pairs.critical * error, "ci_high": difference + pairs.critical * error}
        row |= {"t": difference / error, "p_games_howell": pairs.p[at]}
        rows.append(row | _hedges(held, first=first, second=second, noise=sums.noise))
    return {
        "rows": [{"term": sums.factor, "df": len(sums.levels) - 1, "f": f, "p": p, "omega_squared": omega}],
        "means": [_mean(held, at=at, sums=sums) for at in range(len(sums.levels))],
        "pairs": rows,
    }


def _factor(held: GroupMeans) -> Float:
    k, weight = held.mean.shape[-1], held.n / held.variance
    share = weight / weight.sum(axis=-1, keepdims=True)
    result: Float = 1 + 2 * (k - 2) / (k**2 - 1) * ((1 - share) ** 2 / (held.n - 1)).sum(axis=-1)
    return result


def _omega_squared(held: GroupMeans) -> float:
    """Return what the groups explain beyond what sampling and noise would; without noise omega squared adjusted for Welch."""
    between, alone = group_means.beyond(held)
    more = between / float(_factor(held)) - alone
    return more / (more + float(held.n.sum()))


def _mean(held: GroupMeans, *, at: int, sums: GroupSums) -> dict[str, Any]:
    mean, square = sums.centre + sums.half * float(held.mean[at]), float(held.spread[at, at])
    _, reach = group_means.student(held, sums=sums, square=square, per_variance=1 / float(held.n[at]), at=at)
    return {
        "level": sums.levels[at],
        "n": round(float(held.n[at])),
        "mean": mean,
        "standard_error": sums.half * math.sqrt(square),
        "ci_low": mean - sums.half * reach,
        "ci_high": mean + sums.half * reach,
        "sd": sums.half * math.sqrt(float(held.variance[at])),
    }


def _hedges(held: GroupMeans, *, first: int, second: int, noise: Float) -> dict[str, float]:
    """Return Hedges' g and its interval: the large-sample variance and, by the delta method, that of the noise."""
    at = [first, second]
    n, mean, variance = held.n[at], held.mean[at], held.variance[at]
    df = float(n.sum() - 2)
    pooled = float((n - 1) @ variance) / df
    d = float(mean[1] - mean[0]) / math.sqrt(pooled)
    correction = math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)
    g = correction * d
    sign = np.array([-1.0, 1.0])
    slope = np.stack([-sign * mean / n, sign / n, np.zeros(2)]) / math.sqrt(pooled)  # of the difference, by n, s and q
    slope -= d / (2 * pooled) * np.stack([mean**2 - pooled, -2 * mean, np.ones(2)]) / df  # of the pooled variance
    added = correction**2 * float(np.einsum("ai,abij,bj->", slope, noise[:, :, at][:, :, :, at], slope))
    spread = float(n.sum() / n.prod()) + g**2 / (2 * float(n.sum())) + added
    reach = float(stats.norm.isf((1 - CONFIDENCE) / 2)) * math.sqrt(spread)
    return {"hedges_g": g, "hedges_g_low": g - reach, "hedges_g_high": g + reach}
