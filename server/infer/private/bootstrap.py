"""F tests from a noisy Gram: a noise-aware F, and its p-value by a parametric bootstrap of sampling and noise under the null.

The statistic is F = v'W**-1 v / k for the k linear forms v of the hypothesis, W their covariance with the noise in it
(least_squares.py): without noise it is the usual F. Its distribution under noise is simulated: the predictors' block A stays,
beta_0 is the estimate closest to the data that obeys the null, and a draw is

    c* = A beta_0 + s A**(1/2) xi,   y'y* = beta_0'A beta_0 + 2 s beta_0'A**(1/2) xi + s**2 (|xi|**2 + chi-square of n - q),

with fresh noise on every entry, of A too; each gives an F as the data did. p = (1 + those as large) / (1 + draws);
draws whose noisy A is not positive definite count as larger. Source: reference statistics.md section 7; Ferrando, Wang and
Sheldon, AISTATS 2022; Davison and Hinkley 1997, section 4.2.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.noisy_moments import NoisyMoments
from server.infer.private import resolved
from server.infer.private.generator import generator
from server.infer.private.least_squares import Fit, covariance, residual_variance

Float = NDArray[np.float64]

DRAWS = 1999
ENTRIES_MOST = 1 << 22  # of the draws that are held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """That all `forms` are zero, each the weights of the predictors' coefficients in z, in the fit on `predictors` alone.

    The residual variance is always that of the whole model.
    """

    name: str
    predictors: tuple[str, ...]
    forms: tuple[dict[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """A hypothesis by positions: `rows` of the model's block (the intercept is 0), `forms` (k, rows), `null` beta_0 (q,)."""

    rows: NDArray[np.intp]
    forms: Float
    null: Float


def f_tests(noisy: NoisyMoments, *, fitted: Fit, hypotheses: Sequence[Hypothesis], draws: int = DRAWS) -> list[dict[str, Any]]:
    """Return per hypothesis {"term", "df", "f", "p", "omega_squared"}; `fitted` is the whole model, of least_squares.fit.

    Equal sums give equal p-values: the generator's key is the SHA-256 of the noisy matrix. `omega_squared` is partial, what the
    term explains beyond what sampling and noise alone would; it may be below zero, and has no interval.
    Raises ConfigError on names that are not the model's.
    """
    names = ("", *fitted.predictors)
    model = [0, *resolved.positions(noisy, names=fitted.predictors)]
    y = resolved.positions(noisy, names=[fitted.outcome])[0]
    whole = noisy.matrix[np.ix_([*model, y], [*model, y])]
    bound = [_bind(one, names=names, fitted=fitted, block=whole[:-1, :-1]) for one in hypotheses]
    found = [_statistic(whole[None], one, sigma=noisy.sigma, whole=fitted.inverse[None])[0] for one in bound]
    larger = _larger(noisy, fitted=fitted, bound=bound, found=found, draws=draws)
    return [
        {
            "term": one.name,
            "df": len(held.forms),
            "f": float(f),
            "p": (1 + count) / (1 + draws),
            "omega_squared": _omega_squared(held, fitted=fitted, block=whole),
        }
        for one, held, f, count in zip(hypotheses, bound, found, larger, strict=True)
    ]


def _bind(one: Hypothesis, *, names: tuple[str, ...], fitted: Fit, block: Float) -> _Bound:
    rows = np.array([0, *(names.index(name) for name in one.predictors)])
    forms = np.zeros((len(one.forms), len(rows)))
    for at, weights in enumerate(one.forms):
        for name, weight in weights.items():
            forms[at, one.predictors.index(name) + 1] = weight
    on_all = forms @ np.linalg.solve(
        block[np.ix_(rows, rows)], block[rows]
    )  # the same forms, of the whole model's coefficients
    middle = on_all @ fitted.inverse @ on_all.T
    null = fitted.beta - fitted.inverse @ on_all.T @ np.linalg.solve(middle, on_all @ fitted.beta)
    return _Bound(rows=rows, forms=forms, null=null)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """Some draws of sampling and noise about the block A of a fit: everything but the coefficients that they are drawn under.

    `inverse` (size, q, q) is of A with fresh noise; where that is not `positive` definite, it is A's own and does not count.
    """

    block: Float
    root: Float
    sampled: Float
    rest: Float
    noise: Float
    drawn: Float
    inverse: Float
    positive: NDArray[np.bool_]

    def under(self, beta: Float) -> Float:
        """Return the noisy blocks, outcome last, (size, q + 1, q + 1), were `beta` (q,) true; the next call fills them anew."""
        q = len(self.block)
        column = self.block @ beta + self.sampled @ self.root + self.noise[:, :q, q]
        self.drawn[:, :q, q] = self.drawn[:, q, :q] = column
        self.drawn[:, q, q] = beta @ self.block @ beta + 2 * self.sampled @ (self.root @ beta) + self.rest + self.noise[:, q, q]
        return self.drawn


def simulate(noisy: NoisyMoments, *, fitted: Fit, draws: int) -> Iterator[Simulated]:
    """Yield `draws` draws in parts that fit the memory; equal sums and equal models give equal draws."""
    rows = [0, *resolved.positions(noisy, names=fitted.predictors)]
    block = noisy.matrix[np.ix_(rows, rows)]
    q, s = len(block), math.sqrt(fitted.variance)
    label = "\n".join((fitted.outcome, *fitted.predictors)).encode()
    random = generator(noisy.matrix.tobytes(), label)
    values, vectors = np.linalg.eigh(block)
    root = (vectors * np.sqrt(values)) @ vectors.T
    done = 0
    while done < draws:
        size = min(draws - done, max(1, ENTRIES_MOST // (q + 1) ** 2))
        done += size
        sampled = s * random.standard_normal((size, q))
        rest = s**2 * random.chisquare(fitted.df, size) + (sampled**2).sum(axis=1)
        noise = symmetric(random, size=size, rows=q + 1, sigma=noisy.sigma)
        drawn = np.empty_like(noise)
        drawn[:, :q, :q] = block + noise[:, :q, :q]
        positive = np.linalg.eigvalsh(drawn[:, :q, :q])[:, 0] > 0
        drawn[~positive, :q, :q] = block
        inverse = np.asarray(np.linalg.inv(drawn[:, :q, :q]), dtype=np.float64)
        yield Simulated(
            block=block, root=root, sampled=sampled, rest=rest, noise=noise, drawn=drawn, inverse=inverse, positive=positive
        )


def _larger(noisy: NoisyMoments, *, fitted: Fit, bound: list[_Bound], found: list[float], draws: int) -> list[int]:
    """Return per hypothesis how many draws under its null have a statistic at least as large; draws are shared by all."""
    counts = [0] * len(bound)
    for one in simulate(noisy, fitted=fitted, draws=draws):
        for at, held in enumerate(bound):
            value = _statistic(one.under(held.null), held, sigma=noisy.sigma, whole=one.inverse)
            counts[at] += int(((value >= found[at]) | ~one.positive).sum())
    return counts


def refitted(draws: Float, *, inverse: Float, sigma: float) -> tuple[Float, Float]:
    """Return the coefficients (size, q) and s**2 (size,) of each of `draws`, outcome last; `inverse` of their blocks."""
    block, column = draws[:, :-1, :-1], draws[:, :-1, -1]
    beta = np.einsum("bij,bj->bi", inverse, column)
    residual = draws[:, -1, -1] - np.einsum("bi,bi->b", beta, column)
    df = np.maximum(1.0, draws[:, 0, 0] - block.shape[1])
    variance, _ = residual_variance(residual, beta=beta, inverse=inverse, df=df, sigma=sigma)
    return beta, variance


def _statistic(draws: Float, one: _Bound, *, sigma: float, whole: Float) -> Float:
    """Return F of each matrix of `draws`, (size, q + 1, q + 1), outcome last; `whole` holds the inverses of their blocks."""
    block, column = draws[:, :-1, :-1], draws[:, :-1, -1]
    beta, variance = refitted(draws, inverse=whole, sigma=sigma)
    if len(one.rows) < block.shape[1]:
        whole = np.asarray(np.linalg.inv(block[:, one.rows[:, None], one.rows[None, :]]), dtype=np.float64)
        beta = np.einsum("bij,bj->bi", whole, column[:, one.rows])
    spread = covariance(beta, inverse=whole, variance=variance, sigma=sigma, forms=one.forms)
    value = beta @ one.forms.T
    result: Float = np.einsum("bi,bi->b", value, np.linalg.solve(spread, value[..., None])[..., 0]) / len(one.forms)
    return result


def _omega_squared(one: _Bound, *, fitted: Fit, block: Float) -> float:
    inverse = np.asarray(np.linalg.inv(block[np.ix_(one.rows, one.rows)]), dtype=np.float64)
    beta = inverse @ block[one.rows, -1]
    value, middle = one.forms @ beta, np.asarray(np.linalg.inv(one.forms @ inverse @ one.forms.T), dtype=np.float64)
    spread = covariance(beta, inverse=inverse, variance=fitted.variance, sigma=fitted.sigma, forms=one.forms)
    square = float(value @ middle @ value)
    return (square - float(np.trace(middle @ spread))) / (square + (fitted.n - len(one.forms)) * fitted.variance)


def symmetric(random: np.random.Generator, *, size: int, rows: int, sigma: float) -> Float:  # noqa: TID251
    """Return noise as the release has it: sd sigma on the diagonal, sigma / sqrt(2) off it; shape (size, rows, rows)."""
    drawn = random.normal(0.0, sigma, (size, rows, rows))
    lower = np.tril(drawn, -1) / math.sqrt(2)
    result: Float = lower + lower.transpose(0, 2, 1)
    diagonal = np.arange(rows)
    result[:, diagonal, diagonal] = drawn[:, diagonal, diagonal]
    return result
