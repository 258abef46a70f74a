"""A noisy Gram becomes Table 1: means, standard deviations and shares, each with an interval that counts the noise.

A mean in z is a = M_0j / n; noise moves it by (E_0j - a E_00) / n, a sum of weights w of columns by
sum w_j E_0j - (w'a) E_00, so its variance is sigma**2 (|w|**2 / 2 + (w'a)**2) / n**2. A scatter S has noise of sd
sigma (1 + a**2). Where the sampling interval is not symmetric (Wilson's, the chi-square of a variance), noise and sampling join
by recovered variances (Zou and Donner 2008).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from common import terms
from common.noisy_moments import NoisyMoments
from common.study import Study
from server.infer.private import resolved

CONFIDENCE = 0.95


def describe(noisy: NoisyMoments, *, study: Study, names: Sequence[str]) -> dict[str, Any]:
    """Return {"n", "numbers", "shares"}; the interval of an sd is that of a normal population.

    Numbers: name, unit, mean, ci_low, ci_high, sd, sd_low, sd_high; where the variance does not stand out of the noise, all
    but the mean are None. Shares: name, level, count (noisy,
    rounded, never below 0), share, ci_low, ci_high. Raises NotEstimable "too noisy" on the number of patients.
    """
    n = resolved.patients(noisy)
    numbers, shares = [], []
    for name in names:
        variable = study.variable(name)
        if variable.levels:
            columns = [column.name for column in terms.indicators(name, levels=variable.levels)]
            shares += _shares(noisy, name=name, levels=variable.levels, columns=columns, n=n)
        else:
            numbers.append({"name": name, "unit": variable.unit, **_number(noisy, name=name, n=n)})
    return {"n": round(n), "numbers": numbers, "shares": shares}


def _number(noisy: NoisyMoments, *, name: str, n: float) -> dict[str, float | None]:
    (at,), m, sigma = resolved.positions(noisy, names=[name]), noisy.matrix, noisy.sigma
    centre, half = noisy.centre[at - 1], noisy.half[at - 1]
    mean = float(m[0, at]) / n
    scatter, noise = float(m[at, at]) - n * mean**2, sigma * (1 + mean**2)
    keys = ("ci_low", "ci_high", "sd", "sd_low", "sd_high")
    if scatter < resolved.SCALAR_LEAST * noise:
        return {"mean": centre + half * mean, **dict.fromkeys(keys)}
    quantile = float(stats.norm.isf((1 - CONFIDENCE) / 2))
    variance = scatter / (n - 1)
    reach = half * float(stats.t.isf((1 - CONFIDENCE) / 2, n - 1)) * math.sqrt(variance / n + sigma**2 * (0.5 + mean**2) / n**2)
    low, high = (scatter / float(stats.chi2.isf(tail, n - 1)) for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    away = quantile * noise / (n - 1)
    ends = variance - math.hypot(variance - low, away), variance + math.hypot(high - variance, away)
    made = (centre + half * mean - reach, centre + half * mean + reach, half * math.sqrt(variance))
    spread = (half * math.sqrt(max(0.0, ends[0])), half * math.sqrt(ends[1]))
    return {"mean": centre + half * mean, **dict(zip(keys, (*made, *spread), strict=True))}


def _shares(noisy: NoisyMoments, *, name: str, levels: Sequence[str], columns: Sequence[str], n: float) -> list[dict[str, Any]]:
    at = resolved.positions(noisy, names=columns)
    a = noisy.matrix[0, at] / n
    half = np.array(noisy.half)[[i - 1 for i in at]]
    centre = np.array(noisy.centre)[[i - 1 for i in at]]
    weights = [-half, *np.diag(half)]  # the reference is what the others leave
    values = [1 - float((centre + half * a).sum()), *(centre + half * a).tolist()]
    return [
        {"name": name, "level": level, "count": max(0, round(share * n)), **_share(share, row=row, a=a, n=n, sigma=noisy.sigma)}
        for level, share, row in zip(levels, values, weights, strict=True)
    ]


def _share(share: float, *, row: Any, a: Any, n: float, sigma: float) -> dict[str, float]:  # noqa: ANN401
    """Join Wilson's interval of the share, cut to 0 ... 1, with the noise's."""
    quantile = float(stats.norm.isf((1 - CONFIDENCE) / 2))
    noise = quantile * sigma * math.sqrt(float((row**2).sum()) / 2 + float(row @ a) ** 2) / n
    cut = min(1.0, max(0.0, share))
    centre = (cut + quantile**2 / (2 * n)) / (1 + quantile**2 / n)
    reach = quantile * math.sqrt(cut * (1 - cut) / n + quantile**2 / (4 * n**2)) / (1 + quantile**2 / n)
    low, high = cut - math.hypot(cut - max(0.0, centre - reach), noise), cut + math.hypot(min(1.0, centre + reach) - cut, noise)
    return {"share": cut, "ci_low": max(0.0, low), "ci_high": min(1.0, high)}
