"""A noisy Gram becomes correlations, plain or with all other columns held fixed, whose intervals count sampling and noise.

For two columns let S be their 2 x 2 scatter about what is held fixed (the mean, or the fits on the other columns), g_i the row
of coefficients whose form g_i'M g_j is S_ij, scaled so that g_i'M g_i = 1. A small E moves r by the trace of E G with

    G = (g_i g_j' + g_j g_i') / 2 - r / 2 (g_i g_i' + g_j g_j'),

and as E is the same in every rotation, the variance of that is sigma**2 |G|**2 (Frobenius). The interval joins Fisher's z
(sampling) and this normal error (noise) by recovered variances (Zou and Donner 2008): the squares of the two reaches from r
add on each side. So it stays inside -1 ... 1 and holds where |r| is close to 1, where Fisher's z of a noisy r does not exist.
P-values: r over its sd under the null, sqrt(1 / (n - 1) + sigma**2 |G|**2 at r = 0), normal, two-sided.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.errors import NotEstimable
from common.noisy_moments import NoisyMoments
from server.infer import adjust
from server.infer.private import resolved
from server.infer.private.least_squares import INTERCEPT

Float = NDArray[np.float64]

CONFIDENCE = 0.95


def correlate(noisy: NoisyMoments, *, names: Sequence[str]) -> dict[str, Any]:
    """Return the Pearson correlations of `names` as JSON can hold them, matrices as lists of lists.

    Keys: names, n (noisy, rounded), too_noisy (columns whose variance does not stand out of the noise: their rows are None), r,
    p, p_bh, p_holm, ci_low, ci_high, width_ratio. r is cut to -1 ... 1. Raises NotEstimable "too noisy" on the number of
    patients, ConfigError on a name.
    """
    columns = resolved.positions(noisy, names=names)
    n, m = resolved.patients(noisy), noisy.matrix
    mean = m[0, columns] / n
    scatter = m[np.ix_(columns, columns)] - n * np.outer(mean, mean)
    seen = np.diag(scatter) >= resolved.SCALAR_LEAST * noisy.sigma * (1 + mean**2)
    first, second = np.triu_indices(len(columns), 1)
    both = seen[first] & seen[second]
    first, second = first[both], second[both]
    lengths = np.outer(mean, mean) + np.eye(len(columns))
    made = _pairs(
        scatter[first, first],
        scatter[second, second],
        scatter[first, second],
        lengths=(lengths[first, first], lengths[second, second], lengths[first, second]),
        n=n,
        sigma=noisy.sigma,
    )
    missing = [name for name, well in zip(names, seen.tolist(), strict=True) if not well]
    return _plain(made, names=names, where=(first, second), n=n, missing=missing)


def partial(noisy: NoisyMoments, *, names: Sequence[str]) -> dict[str, Any]:
    """Return the correlation of each pair of `names` with all the others held fixed; keys as `correlate`.

    Raises NotEstimable "too noisy", also below three columns or where the columns together do not stand out of the noise.
    """
    columns = [0, *resolved.positions(noisy, names=names)]
    n, fixed = resolved.patients(noisy), len(names) - 2
    if fixed < 1:
        raise NotEstimable("too few columns", term="partial correlation", action="It needs three columns that vary.")
    if n - fixed < 4:
        raise NotEstimable(resolved.DIAGNOSIS, term="partial correlation", action=resolved.ACTION)
    inverted = resolved.inverse(noisy.matrix[np.ix_(columns, columns)], names=(INTERCEPT, *names), sigma=noisy.sigma)
    squared = inverted @ inverted
    first, second = np.triu_indices(len(names), 1)
    i, j = first + 1, second + 1
    block = np.stack([[inverted[i, i], inverted[i, j]], [inverted[i, j], inverted[j, j]]]).transpose(2, 0, 1)
    left = np.asarray(np.linalg.inv(block), dtype=np.float64)  # the scatter of the pair about its fits on the others
    lengths = left @ np.stack([[squared[i, i], squared[i, j]], [squared[i, j], squared[j, j]]]).transpose(2, 0, 1) @ left
    made = _pairs(
        left[:, 0, 0],
        left[:, 1, 1],
        left[:, 0, 1],
        lengths=(lengths[:, 0, 0], lengths[:, 1, 1], lengths[:, 0, 1]),
        n=n - fixed,
        sigma=noisy.sigma,
    )
    return _plain(made, names=names, where=(first, second), n=n, missing=[])


def _pairs(
    first: Float, second: Float, cross: Float, *, lengths: tuple[Float, Float, Float], n: float, sigma: float
) -> dict[str, Float]:
    """Return r, p, interval and width ratio of pairs from scatter and the products of their forms' coefficients, (pairs,)."""
    size = np.sqrt(first * second)
    r = np.clip(cross / size, -1.0, 1.0)
    a, b, ab = lengths[0] / first, lengths[1] / second, lengths[2] / size
    null = (a * b + ab**2) / 2
    noise = sigma**2 * (null - r * ab * (a + b) + r**2 / 4 * (a**2 + b**2 + 2 * ab**2))
    quantile = float(stats.norm.isf((1 - CONFIDENCE) / 2))
    reach = quantile / math.sqrt(n - 3)
    with np.errstate(divide="ignore"):
        centre = np.arctanh(r)
    low, high = np.tanh(centre - reach), np.tanh(centre + reach)
    wide_low = np.maximum(-1.0, r - np.hypot(r - low, quantile * np.sqrt(noise)))
    wide_high = np.minimum(1.0, r + np.hypot(high - r, quantile * np.sqrt(noise)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(high > low, (wide_high - wide_low) / (high - low), np.nan)
    null_sd = np.sqrt(1 / (n - 1) + sigma**2 * null)
    p = np.minimum(1.0, 2 * stats.norm.sf(np.abs(r) / null_sd))
    return {"r": r, "p": p, "ci_low": wide_low, "ci_high": wide_high, "width_ratio": ratio}


def _plain(
    made: dict[str, Float],
    *,
    names: Sequence[str],
    where: tuple[NDArray[np.intp], NDArray[np.intp]],
    n: float,
    missing: list[str],
) -> dict[str, Any]:
    given = made["p"].tolist()
    made = {**made, "p_bh": adjust.benjamini_hochberg(given), "p_holm": adjust.holm(given)}
    plain: dict[str, Any] = {"names": list(names), "n": round(n), "too_noisy": missing}
    for key, values in made.items():
        matrix = np.full((len(names), len(names)), np.nan)
        matrix[where] = matrix.T[where] = values
        if key in {"r", "ci_low", "ci_high"}:
            at = [i for i, name in enumerate(names) if name not in missing]
            matrix[at, at] = 1.0
        plain[key] = [[None if math.isnan(value) else value for value in line] for line in matrix.tolist()]
    return plain
