"""Newton's method where every evaluation is a secure sum: a likelihood climbs, or a diagnosis says why it cannot."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import fixed_point
from common.errors import NotEstimable, ProtocolError
from common.query import Analysis, Column, Query, centre_half, symmetric, triangle

Vector = NDArray[np.float64]
ITERATIONS_MOST = 40
HALVINGS_MOST = 12
STEP_SMALLEST = 1e-11  # of a standard error
STEP_SMALL = 1e-8  # accepted when rounding allows no less
PIVOT_SMALLEST = 1e-11
SEPARATED_AFTER = 14  # Newton converges quadratically; without a maximum its steps keep their size
SHRINKS_LEAST = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A log-likelihood at a point, with its gradient `score` (m,) and `information` (m, m), and the counts before it."""

    counts: tuple[int, ...]
    likelihood: float
    score: Vector
    information: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """Where the climb ended: `coefficients` (m,), `covariance` (m, m), first and last evaluation, how many sums."""

    coefficients: Vector
    covariance: Vector
    first: Evaluation
    last: Evaluation
    evaluations: int


def read(sums: Sequence[int], *, counts: int, size: int) -> Evaluation:
    """Read (counts, log-likelihood, score, information); raises ProtocolError on another length or a count that is none."""
    if len(sums) != counts + 1 + size + triangle(size):
        raise ProtocolError("An opened sum has the wrong length.", action="Check that both sides run the same version.")
    values = fixed_point.read(sums)
    return Evaluation(
        counts=tuple(fixed_point.counts(sums[:counts]).tolist()),
        likelihood=float(values[counts]),
        score=values[counts + 1 : counts + 1 + size],
        information=symmetric(values[counts + 1 + size :], size=size),
    )


def maximise(
    evaluate: Callable[[Vector], Query],
    *,
    start: Vector,
    names: Sequence[str],
    reader: Callable[[Vector, Sequence[int]], Evaluation],
    check: Callable[[Evaluation], None],
    allowed: Callable[[Vector], bool] = lambda _: True,
) -> Analysis[Optimum]:
    """Climb from `start`; `check` sees the first evaluation, `allowed` says which points may be asked about.

    Raises NotEstimable: "aliased" at the start, "separated" when the likelihood has no maximum (or one so far that 14 steps of
    constant size do not reach it), "no convergence" after 40 sums.
    """
    at = np.array(start, dtype=np.float64)
    now = first = reader(at, (yield evaluate(at)))
    check(first)
    invert(first.information, names=names, diagnosis="aliased")
    asked, halvings, sizes, lengths = 1, 0, [math.inf], [0.0] * 3
    while asked < ITERATIONS_MOST:
        covariance = invert(now.information, names=names, diagnosis="separated")
        step = solve(now.information, now.score)
        relative = float(np.max(np.abs(step) / np.sqrt(np.diag(covariance))))
        if relative < STEP_SMALLEST or (relative < STEP_SMALL and relative > sizes[-1] / 4):
            return Optimum(coefficients=at + step, covariance=covariance, first=first, last=now, evaluations=asked)
        sizes.append(relative)
        lengths.append(math.sqrt(float(step @ first.information @ step)))  # free of the columns' units
        if asked >= SEPARATED_AFTER and all(lengths[-i] > SHRINKS_LEAST * lengths[-i - 1] for i in (1, 2, 3)):
            raise _separated(names, step)
        scale = 1.0
        while True:
            reach = at + scale * step
            while not allowed(reach):
                scale /= 2
                halvings += 1
                if halvings > HALVINGS_MOST:
                    raise _separated(names, step)
                reach = at + scale * step
            if asked >= ITERATIONS_MOST:
                break
            after = reader(reach, (yield evaluate(reach)))
            asked += 1
            if after.counts != now.counts:
                raise ProtocolError("The rows changed between two sums.", action="Run the analysis again.")
            if after.likelihood >= now.likelihood - 1e-9 * (1 + abs(now.likelihood)) or halvings >= HALVINGS_MOST:
                at, now = reach, after
                break
            scale /= 2
            halvings += 1
    raise NotEstimable("no convergence", term=names[-1], action="Leave out predictors, or widen the groups.")


def invert(information: Vector, *, names: Sequence[str], diagnosis: str) -> Vector:
    """Return the inverse, scaled to unit diagonal first; raises NotEstimable that names the first term with no pivot."""
    diagonal = np.diag(information)
    for name, value in zip(names, diagonal.tolist(), strict=True):
        if not value > 0:
            raise NotEstimable("constant" if diagnosis == "aliased" else diagnosis, term=name, action="Leave it out.")
    scale = 1 / np.sqrt(diagonal)
    matrix = information * np.outer(scale, scale)
    factor = np.zeros_like(matrix)
    for j, name in enumerate(names):
        pivot = matrix[j, j] - math.fsum(factor[j, :j] ** 2)
        if not pivot > PIVOT_SMALLEST:
            raise NotEstimable(diagnosis, term=name, action="The terms before it give it; leave one out.")
        factor[j, j] = math.sqrt(pivot)
        for i in range(j + 1, len(names)):
            factor[i, j] = (matrix[i, j] - math.fsum(factor[i, :j] * factor[j, :j])) / factor[j, j]
    inverse = np.linalg.inv(matrix)
    inverse = inverse + inverse @ (np.eye(len(names)) - matrix @ inverse)  # one step of refinement
    result: Vector = (inverse + inverse.T) / 2 * np.outer(scale, scale)
    return result


def solve(information: Vector, score: Vector) -> Vector:
    """Return information^-1 score, scaled to unit diagonal first."""
    scale = 1 / np.sqrt(np.diag(information))
    matrix = information * np.outer(scale, scale)
    result: Vector = np.linalg.solve(matrix, score * scale) * scale
    return result


def unscaled(columns: Sequence[Column], *, intercept: bool) -> Vector:
    """Return T with coefficients in the columns' own units = T coefficients of z; an intercept comes first."""
    grid = [centre_half(column.lower, column.upper) for column in columns]
    transform = np.diag([*([1.0] if intercept else []), *(1 / half for _, half in grid)])
    if intercept:
        transform[0, 1:] = [-centre / half for centre, half in grid]
    return transform


def _separated(names: Sequence[str], step: Vector) -> NotEstimable:
    return NotEstimable(
        "separated",
        term=names[int(np.argmax(np.abs(step)))],
        action="Its estimate is infinite; use Firth's penalty or leave it out.",
    )
