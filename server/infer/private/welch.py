"""Groups of a noisy Gram become Welch's test and Games and Howell's pairs: each group has a variance of its own, noise counted.

With m_g = s_g / n_g (group_sums.py), noise moves the means by (ds - m dn) / n, of covariance N, and makes the sum of squares
q - s**2 / n low by n N_gg, which is put back. The means have V = diag(variance_g / n_g) + N. Welch's statistic is the Wald
statistic of equal means with V over (k - 1) and over his factor; without noise it is his F. Its p-value, and the
distribution of the largest |t| over all pairs, are simulated: sampling of a normal outcome in each group, then noise on the
sums; under the null of one mean for F, about the estimates for pairs.
Source: Welch 1951; Games and Howell 1976; Davison and Hinkley 1997, sections 4.2 and 5.4; Hedges and Olkin 1985 for g.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from common.errors import NotEstimable
from server.infer.private import bootstrap, resolved, simultaneous
from server.infer.private.generator import generator
from server.infer.private.group_sums import GroupSums

Float = NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Sizes, means, variances (..., k) and the covariance V of the means (..., k, k), in t."""

    n: Float
    mean: Float
    variance: Float
    spread: Float


def compare(sums: GroupSums, *, draws: int = bootstrap.DRAWS) -> dict[str, Any]:
    """Return {"rows" (Welch's test), "means", "pairs" (Games and Howell)} without the assumption of one variance.

    Means: level, n (noisy, rounded), mean, ci_low, ci_high, sd. Pairs: difference with its standard error, an interval and
    p_games_howell that hold for all pairs together, hedges_g with its own interval.
    Raises NotEstimable "too noisy", named after the level whose size or variance does not stand out of the noise.
    Equal sums give equal results.
    """
    noise, k = sums.noise, len(sums.levels)
    held = _groups(sums.sums, noise=noise)
    _check(held, sums=sums)
    random = generator(sums.sums.tobytes(), f"{sums.outcome}\n{sums.factor}".encode())
    pairs = list(itertools.combinations(range(k), 2))
    where = np.array([first for first, _ in pairs]), np.array([second for _, second in pairs])
    equal = np.full(k, _common(held))
    f = float(_welch(held))
    simulated = _draw(held, mean=equal, sums=sums, draws=draws, random=random)
    larger = int((~(_welch(simulated) < f)).sum())
    about = _draw(held, mean=held.mean, sums=sums, draws=draws, random=random)
    drawn = np.abs(_differences(about, where) - _differences(held, where)) / _errors(about, where)
    drawn = np.sort(np.where(np.isnan(drawn), np.inf, drawn).max(axis=1))
    difference, error = _differences(held, where), _errors(held, where)
    p, critical = simultaneous.adjusted((difference / error).tolist(), drawn=drawn)
    return {
        "rows": [
            {"term": sums.factor, "df": k - 1, "f": f, "p": (1 + larger) / (1 + draws), "omega_squared": _omega_squared(held)}
        ],
        "means": [_mean(held, at=at, sums=sums) for at in range(k)],
        "pairs": [
            {
                "first": sums.levels[first],
                "second": sums.levels[second],
                "difference": sums.half * float(difference[at]),
                "standard_error": sums.half * float(error[at]),
                "ci_low": None if critical is None else sums.half * float(difference[at] - critical * error[at]),
                "ci_high": None if critical is None else sums.half * float(difference[at] + critical * error[at]),
                "t": float(difference[at] / error[at]),
                "p_games_howell": p[at],
                **_hedges(held, first=first, second=second, noise=noise),
            }
            for at, (first, second) in enumerate(pairs)
        ],
    }


def forecast(sums: GroupSums) -> tuple[float, float]:
    """Return what noise adds to the variance of a pair, over the sampling's, at most; and how clear the least clear group is.

    Clear: its size, or its sum of squares, over the least that is told (1 or more is told).
    """
    held = _groups(sums.sums, noise=sums.noise)
    bare = held.variance / held.n
    where = np.triu_indices(len(sums.levels), 1)
    added = _errors(held, where) ** 2 / (bare[where[0]] + bare[where[1]]) - 1
    return float(added.max()), min(_clear(held, at=at, sums=sums) for at in range(len(sums.levels)))


def _groups(sums: Float, *, noise: Float) -> _Groups:
    """Read the groups of sums (..., k, 3); what has no patient or no variance is nan."""
    n, s, q = sums[..., 0], sums[..., 1], sums[..., 2]
    n = np.where(n > 1, n, np.nan)
    mean = s / n
    moved = _moved(mean, noise=noise) / (n[..., :, None] * n[..., None, :])
    variance = (q - n * mean**2 + n * np.diagonal(moved, axis1=-2, axis2=-1)) / (n - 1)
    variance = np.where(variance > 0, variance, np.nan)
    spread = moved + (variance / n)[..., None] * np.eye(n.shape[-1])
    return _Groups(n=n, mean=mean, variance=variance, spread=spread)


def _moved(mean: Float, *, noise: Float) -> Float:
    """Return the covariance of ds - m dn, (..., k, k)."""
    column, row = mean[..., :, None], mean[..., None, :]
    result: Float = noise[1, 1] - column * noise[0, 1] - row * noise[1, 0] + column * row * noise[0, 0]
    return result


def _check(held: _Groups, *, sums: GroupSums) -> None:
    for at, level in enumerate(sums.levels):
        if not _clear(held, at=at, sums=sums) >= 1:
            raise NotEstimable(resolved.DIAGNOSIS, term=f"{sums.factor}[{level}]", action=resolved.ACTION)


def _clear(held: _Groups, *, at: int, sums: GroupSums) -> float:
    away, noise = np.array([held.mean[at] ** 2, -2 * held.mean[at], 1.0]), sums.noise[:, :, at, at]
    scatter = held.variance[at] * (held.n[at] - 1)
    size = held.n[at] / max(4.0, resolved.SCALAR_LEAST * math.sqrt(noise[0, 0]))
    return float(np.minimum(size, scatter / (resolved.SCALAR_LEAST * math.sqrt(float(away @ noise @ away)))))


def _draw(held: _Groups, *, mean: Float, sums: GroupSums, draws: int, random: np.random.Generator) -> _Groups:  # noqa: TID251
    k = len(mean)
    sampled = mean + np.sqrt(held.variance / held.n) * random.standard_normal((draws, k))
    scatter = held.variance * random.chisquare(held.n - 1, (draws, k))
    exact = np.stack([np.broadcast_to(held.n, sampled.shape), held.n * sampled, scatter + held.n * sampled**2], axis=-1)
    moved = (random.standard_normal((draws, 3 * k)) @ sums.root.T).reshape(draws, k, 3)
    return _groups(exact + moved, noise=sums.noise)


def _common(held: _Groups) -> float:
    """Return the one mean that fits the groups best under V."""
    weight = np.linalg.solve(held.spread, np.ones(len(held.mean)))
    return float(weight @ held.mean / weight.sum())


def _welch(held: _Groups) -> Float:
    """Return Welch's F with V in the place of the sampling variances; nan where a group is nan."""
    k = held.mean.shape[-1]
    away = held.mean[..., 1:] - held.mean[..., :1]
    lines = held.spread[..., 1:, :] - held.spread[..., :1, :]
    spread = lines[..., :, 1:] - lines[..., :, :1]
    whole = np.asarray(np.isfinite(spread).all(axis=(-2, -1)))
    safe = np.where(whole[..., None, None], spread, np.eye(k - 1))
    wald = (away * np.linalg.solve(safe, away[..., None])[..., 0]).sum(axis=-1)
    result: Float = np.where(whole, wald / (k - 1) / _factor(held), np.nan)
    return result


def _factor(held: _Groups) -> Float:
    k, weight = held.mean.shape[-1], held.n / held.variance
    share = weight / weight.sum(axis=-1, keepdims=True)
    result: Float = 1 + 2 * (k - 2) / (k**2 - 1) * ((1 - share) ** 2 / (held.n - 1)).sum(axis=-1)
    return result


def _omega_squared(held: _Groups) -> float:
    """Return what the groups explain beyond what sampling and noise would; without noise omega squared adjusted for Welch."""
    k, bare = len(held.mean), np.diag(held.variance / held.n)
    lines = np.hstack([-np.ones((k - 1, 1)), np.eye(k - 1)])
    away = lines @ held.mean
    middle = np.linalg.inv(lines @ bare @ lines.T)
    beyond = float(away @ middle @ away / _factor(held) - np.trace(middle @ lines @ held.spread @ lines.T))
    return beyond / (beyond + float(held.n.sum()))


def _differences(held: _Groups, where: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Float:
    return held.mean[..., where[1]] - held.mean[..., where[0]]


def _errors(held: _Groups, where: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Float:
    first, second = where
    square = held.spread[..., first, first] + held.spread[..., second, second] - 2 * held.spread[..., first, second]
    result: Float = np.sqrt(square)
    return result


def _mean(held: _Groups, *, at: int, sums: GroupSums) -> dict[str, Any]:
    n, mean, variance, both = (float(one) for one in (held.n[at], held.mean[at], held.variance[at], held.spread[at, at]))
    away, noise = np.array([mean**2, -2 * mean, 1.0]), sums.noise[:, :, at, at]
    uncertain = 2 * variance**2 / (n - 1) + float(away @ noise @ away) / (n - 1) ** 2
    df = max(1.0, 2 * both**2 / (uncertain / n**2))  # Satterthwaite
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * math.sqrt(both)
    return {
        "level": sums.levels[at],
        "n": round(n),
        "mean": sums.centre + sums.half * mean,
        "standard_error": sums.half * math.sqrt(both),
        "ci_low": sums.centre + sums.half * (mean - reach),
        "ci_high": sums.centre + sums.half * (mean + reach),
        "sd": sums.half * math.sqrt(variance),
    }


def _hedges(held: _Groups, *, first: int, second: int, noise: Float) -> dict[str, float]:
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
