"""Group sums become means with their covariance, the F of equal means and the largest t of all pairs, both simulated.

With m_g = s_g / n_g (group_sums.py), noise moves the means by (ds - m dn) / n, of covariance N, and makes the sum of squares
q - s**2 / n low by n N_gg, which is put back. The means have V = diag(variance_g / n_g) + N, with a variance per group or,
pooled, one for all: where that is below the sd of its noise, the sd stands in its place (as in least_squares.py), while a
variance per group has to stand out. F is the Wald statistic of equal means with V over (k - 1): without noise the usual one.
Its p-value, and the distribution of the largest |t| over all pairs, are simulated: sampling of a normal outcome in each group,
then noise on the sums; under the null of one mean for F, about the estimates for pairs.
Source: Davison and Hinkley 1997, sections 4.2 and 5.4.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.errors import NotEstimable
from server.infer.private import resolved, simultaneous
from server.infer.private.group_sums import GroupSums

Float = NDArray[np.float64]
Index = NDArray[np.intp]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMeans:
    """Sizes, means, variances (..., k) and the covariance V of the means (..., k, k), in t; nan where there is none.

    `pooled`: all groups have the same variance, estimated of all.
    """

    n: Float
    mean: Float
    variance: Float
    spread: Float
    pooled: bool

    @property
    def df(self) -> Float:
        """Return the degrees of freedom of each variance without noise, (..., k)."""
        whole = self.n.sum(axis=-1, keepdims=True) - self.n.shape[-1]
        return np.broadcast_to(whole, self.n.shape) if self.pooled else self.n - 1

    def differences(self, where: tuple[Index, Index]) -> Float:
        """Return second - first of the pairs `where`."""
        return self.mean[..., where[1]] - self.mean[..., where[0]]

    def errors(self, where: tuple[Index, Index]) -> Float:
        """Return the standard errors of the pairs `where`."""
        first, second = where
        square = self.spread[..., first, first] + self.spread[..., second, second] - 2 * self.spread[..., first, second]
        result: Float = np.sqrt(square)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """All pairs: p and the critical value of the largest t hold for all together; None where too many draws were lost."""

    where: tuple[Index, Index]
    difference: Float
    error: Float
    p: list[float]
    critical: float | None


def read(sums: Float, *, noise: Float, pooled: bool) -> GroupMeans:
    """Read the groups of sums (..., k, 3); `noise` as GroupSums has it."""
    n, s, q = sums[..., 0], sums[..., 1], sums[..., 2]
    n = np.where(n > 1, n, np.nan)
    mean = s / n
    column, row = mean[..., :, None], mean[..., None, :]
    moved = noise[1, 1] - column * noise[0, 1] - row * noise[1, 0] + column * row * noise[0, 0]
    moved /= n[..., :, None] * n[..., None, :]
    scatter = q - n * mean**2 + n * np.diagonal(moved, axis1=-2, axis2=-1)
    variance = scatter / (n - 1)
    if pooled:
        df, away = n.sum(axis=-1) - n.shape[-1], np.stack([mean**2, -2 * mean, np.ones_like(mean)], axis=-2)
        least = np.sqrt(np.einsum("...ai,abij,...bj->...", away, noise, away)) / df
        whole = np.maximum(scatter.sum(axis=-1) / df, least)
        variance = np.broadcast_to(whole[..., None], n.shape)
    variance = np.where(variance > 0, variance, np.nan)
    spread = moved + (variance / n)[..., None] * np.eye(n.shape[-1])
    return GroupMeans(n=n, mean=mean, variance=variance, spread=spread, pooled=pooled)


def told(sums: GroupSums, *, pooled: bool) -> GroupMeans:
    """Read the groups of a release; raises NotEstimable "too noisy" with the level that does not stand out."""
    held = read(sums.sums, noise=sums.noise, pooled=pooled)
    for at, level in enumerate(sums.levels):
        if not held.n[at] >= max(4.0, resolved.SCALAR_LEAST * math.sqrt(sums.noise[0, 0, at, at])):
            raise NotEstimable(resolved.DIAGNOSIS, term=f"{sums.factor}[{level}]", action=resolved.ACTION)
        if not (pooled or held.variance[at] >= resolved.SCALAR_LEAST * noise_sd(held, sums=sums)[at]):
            raise NotEstimable(resolved.DIAGNOSIS, term=f"{sums.factor}[{level}]", action=resolved.ACTION)
    return held


def noise_sd(held: GroupMeans, *, sums: GroupSums) -> Float:
    """Return the sd that noise gives each variance, (k,)."""
    away = np.stack([held.mean**2, -2 * held.mean, np.ones_like(held.mean)])
    spread = np.einsum("ai,abij,bj->ij", away, sums.noise, away)
    square = np.full(len(held.n), spread.sum()) if held.pooled else np.diag(spread)
    return np.asarray(np.sqrt(square) / held.df)


def clear(sums: GroupSums, *, pooled: bool) -> float:
    """Return how far the least clear size, or variance, is above the least that `told` takes; 1 or more is told."""
    held = read(sums.sums, noise=sums.noise, pooled=pooled)
    sizes = held.n / np.maximum(4.0, resolved.SCALAR_LEAST * np.sqrt(np.diag(sums.noise[0, 0])))
    if pooled:
        return float(sizes.min())
    return float(np.minimum(sizes, held.variance / (resolved.SCALAR_LEAST * noise_sd(held, sums=sums))).min())


def f_test(
    held: GroupMeans,
    *,
    sums: GroupSums,
    over: Callable[[GroupMeans], Float],
    draws: int,
    random: np.random.Generator,  # noqa: TID251
) -> tuple[float, float]:
    """Return F, divided by the factor `over`, and its p-value; draws that lose a group count as larger."""
    weight = np.linalg.solve(held.spread, np.ones(len(held.mean)))
    equal = np.full(len(held.mean), float(weight @ held.mean / weight.sum()))
    f = float(_wald(held) / over(held))
    drawn = _draw(held, mean=equal, sums=sums, draws=draws, random=random)
    return f, (1 + int((~(_wald(drawn) / over(drawn) < f)).sum())) / (1 + draws)


def all_pairs(held: GroupMeans, *, sums: GroupSums, draws: int, random: np.random.Generator) -> Pairs:  # noqa: TID251
    """Compare all pairs; second - first, as itertools.combinations orders them."""
    first, second = zip(*itertools.combinations(range(len(held.mean)), 2), strict=True)
    where = np.array(first), np.array(second)
    about = _draw(held, mean=held.mean, sums=sums, draws=draws, random=random)
    found = np.abs(about.differences(where) - held.differences(where)) / about.errors(where)
    drawn = np.sort(np.where(np.isnan(found), np.inf, found).max(axis=1))
    difference, error = held.differences(where), held.errors(where)
    p, critical = simultaneous.adjusted((difference / error).tolist(), drawn=drawn)
    return Pairs(where=where, difference=difference, error=error, p=p, critical=critical)


def student(held: GroupMeans, *, sums: GroupSums, square: float, per_variance: float, at: int) -> tuple[float, float]:
    """Return the df, after Satterthwaite, of a figure with variance `square`, and half its interval's width.

    `per_variance`: what a unit of the variance of group `at` adds to `square`.
    """
    sampled = 2 * float(held.variance[at]) ** 2 / float(held.df[at])
    uncertain = per_variance**2 * (sampled + float(noise_sd(held, sums=sums)[at]) ** 2)
    df = max(1.0, 2 * square**2 / uncertain)
    return df, float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * math.sqrt(square)


def beyond(held: GroupMeans) -> tuple[float, float]:
    """Return the sum of squares between groups over the variance, and what of it sampling and noise alone would give."""
    k, bare = len(held.mean), np.diag(held.variance / held.n)
    lines = np.hstack([-np.ones((k - 1, 1)), np.eye(k - 1)])
    away, middle = lines @ held.mean, np.linalg.inv(lines @ bare @ lines.T)
    return float(away @ middle @ away), float(np.trace(middle @ lines @ held.spread @ lines.T))


def _draw(held: GroupMeans, *, mean: Float, sums: GroupSums, draws: int, random: np.random.Generator) -> GroupMeans:  # noqa: TID251
    k = len(mean)
    sampled = mean + np.sqrt(held.variance / held.n) * random.standard_normal((draws, k))
    scatter = held.variance * random.chisquare(held.n - 1, (draws, k))
    exact = np.stack([np.broadcast_to(held.n, sampled.shape), held.n * sampled, scatter + held.n * sampled**2], axis=-1)
    moved = (random.standard_normal((draws, 3 * k)) @ sums.root.T).reshape(draws, k, 3)
    return read(exact + moved, noise=sums.noise, pooled=held.pooled)


def _wald(held: GroupMeans) -> Float:
    """Return the Wald statistic of equal means over its degrees of freedom; nan where a group is nan."""
    k = held.mean.shape[-1]
    away = held.mean[..., 1:] - held.mean[..., :1]
    lines = held.spread[..., 1:, :] - held.spread[..., :1, :]
    spread = lines[..., :, 1:] - lines[..., :, :1]
    whole = np.asarray(np.isfinite(spread).all(axis=(-2, -1)))
    safe = np.where(whole[..., None, None], spread, np.eye(k - 1))
    wald = (away * np.linalg.solve(safe, away[..., None])[..., 0]).sum(axis=-1)
    result: Float = np.where(whole, wald / (k - 1), np.nan)
    return result
