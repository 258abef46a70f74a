"""What a query weighs patients by: its numbers may choose nobody, neither by a large weight nor by a combination of weights."""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.kernels import cluster
from client.kernels.histogram import bins_of
from client.kernels.rows import Rows, linear, with_ones
from common import residuals
from common.errors import TooFewPatients
from common.query import Query, symmetric

Float = NDArray[np.float64]

STEEPEST: Final = 20.0  # of a linear predictor: beyond it a fit is a cut between two sets of patients
LEVERAGE_SLACK: Final = 1e-6  # of a row in a pooled fit, for its rounding
NARROWEST: Final = 1 / 1024  # of the width of a column's bounds: a component's standard deviation
NOTHING: Final = 2.0**-106  # a responsibility below it adds nothing to a sum
UNEVEN: Final = 16.0  # steps of scores over steps of this hospital's own midranks: the largest over the smallest
UNKNOWNS_MOST: Final = 4  # of a table whose margins are known: so few follow from one sum of products


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What is judged of a query's weights.

    `single`: arrays of which one patient may hold a share only. `chosen`: so too, and since the query's numbers choose them, as
    many hold them as a cell needs. `spans`: matrices (patients, columns) whose combinations are read. `counts`: patients that
    may not be 1 to k - 1; `sums` likewise, of fractions of patients.
    """

    single: tuple[Float, ...] = ()
    chosen: tuple[Float, ...] = ()
    spans: tuple[Float, ...] = ()
    counts: tuple[NDArray[np.int64], ...] = ()
    sums: tuple[float, ...] = ()


def of(asked: Query, rows: Rows, *, share_max: float) -> Weights:  # noqa: PLR0911  (one branch a kernel)
    """Return what a query weighs the rows by; nothing for a kernel without weights, or without rows.

    Raises TooFewPatients where the numbers choose patients by themselves: a linear predictor above 20, a leverage that no fit
    has or above `share_max`, a component too narrow for its columns, uneven scores of ranks.
    """
    x = rows.complete(asked.variables)
    if not len(x):
        return Weights()
    z = rows.standardised(x[:, len(asked.responses) :], names=asked.predictors)
    if asked.kernel == "residuals":
        return _of_residuals(asked, x, share_max=share_max)
    if asked.kernel == "ordinal":
        return _of_levels(asked, x[:, 0], z)
    if asked.kernel == "mixture":
        return _of_components(asked, rows, x)
    if asked.kernel == "rank_gram":
        return _of_scores(asked, x)
    if asked.kernel in {"cox", "cox_stratified"}:
        eta = linear(z, asked.array("coefficients"))
        _not_steep(eta - eta.mean())
        return Weights(chosen=(np.exp(eta - eta.max()),))
    return _of_odds(asked, x[:, 0], z) if asked.kernel in {"logistic", "firth"} else Weights()


def few(why: str) -> TooFewPatients:
    """Return the refusal that names the rule, for the hospital's own log."""
    return TooFewPatients(f"An exact sum is refused: {why}.", action="See [policy] in site.toml; ask for coarser groups.")


def _of_odds(asked: Query, y: Float, z: Float) -> Weights:
    """Return the weights of score and information, beside all columns: their sums can be combined with those of a Gram."""
    eta = linear(with_ones(z), asked.array("coefficients"))
    _not_steep(eta)
    low = np.exp(-np.logaddexp(0.0, eta))  # 1 - probability
    high = np.exp(-np.logaddexp(0.0, -eta))
    variance = low * high
    columns = [z, y, high, variance]
    missed = np.where(y == 1, low, high)
    single = [missed, variance]
    if asked.kernel == "firth":
        x, inverse = with_ones(z), symmetric(asked.array("inverse"), size=z.shape[1] + 1)
        leverage = variance * np.einsum("ij,jk,ik->i", x, inverse, x)
        if not bool(np.all((leverage >= -LEVERAGE_SLACK) & (leverage <= 1 + LEVERAGE_SLACK))):
            raise few("a leverage in a query is that of no fit")
        columns.append(leverage * (low - high) / 2)
        single.append(np.abs(leverage))
    return Weights(chosen=tuple(single), spans=(np.column_stack(columns),))


def _of_levels(asked: Query, level: Float, z: Float) -> Weights:
    """Return the weights of proportional odds: in the scores of the slopes and of each threshold, and in the information."""
    shift = linear(z, asked.array("coefficients")) if asked.predictors else np.zeros(len(z))
    cuts = asked.array("thresholds")
    _not_steep(cuts[None, :] - shift[:, None])
    ends = np.concatenate([[-np.inf], cuts, [np.inf]])
    at = level.astype(np.int64)
    low, high = _below(ends[at] - shift), _below(ends[at + 1] - shift)  # probabilities of a lower level, and of none higher
    gap = high - low
    score = 1 - high - low
    weights = [high * (1 - high) + low * (1 - low)]
    for cut in range(len(cuts)):
        beside = [(at == cut) * high * (1 - high), (at == cut + 1) * low * (1 - low)]
        weights.append((beside[0] + beside[1]) / np.where(gap > 0, gap, 1.0))
    return Weights(chosen=(np.abs(score), *weights), spans=(np.column_stack([z, level, score, *weights]),))


def _of_residuals(asked: Query, x: Float, *, share_max: float) -> Weights:
    """Return squares and fourth powers of residuals, and squares over what leverage leaves.

    With no leverage above the bound, no denominator is small: the weights are nearly a polynomial of the patient's values.
    Squares are summed with every column, hence read in combination with them; so are the columns times the residual.
    """
    row = residuals.parts(x[:, 1:], x[:, 0], fit=residuals.from_query(asked))
    if not bool(np.all(1 - row.left <= share_max)):
        raise few("a patient has too much leverage in the fit of a query")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows, the kernel refuses
        square = row.s * row.s
        single = (square, square * square, square / (row.left * row.left))
        meat = row.q * (row.s / row.left)[:, None]
    if not bool(np.all(np.isfinite(single[1]))) or not bool(np.all(np.isfinite(meat))):
        raise few("a residual in a query is that of no fit")
    return Weights(single=single, spans=(np.column_stack([x, square]), meat))


def _of_components(asked: Query, rows: Rows, x: Float) -> Weights:
    """Return responsibilities and, since two queries can be subtracted, how far each patient is shared between components."""
    p = len(asked.responses)
    width = np.array([rows.upper[at] - rows.lower[at] for at in map(rows.names.index, asked.responses)])
    deviation = np.sqrt(asked.array("variances").reshape(-1, p)) * asked.array("scale")
    if bool(np.any(deviation < NARROWEST * width)):
        raise few("a component is too narrow for its columns")
    shares = cluster.responsibilities(rows, asked)
    shares[shares < NOTHING] = 0.0
    between = shares * (1 - shares)
    return Weights(
        single=(*shares.T, *between.T),
        spans=(np.column_stack([x, shares]),),
        sums=tuple(shares.sum(axis=0).tolist()),
    )


def _of_scores(asked: Query, x: Float) -> Weights:
    """Return the cells of tables that one sum of products tells; scores rise as evenly as this hospital's own midranks.

    A step from one occupied bin to the next is 1 to 16 times, up to one factor, the patients of both: digits of a large base,
    in which a sum of products would spell a table, rise faster. Scores with many digits spell it too, if one looks for the
    table by lattice reduction: a sum has as many bits as its scores, and tells a table with fewer.
    """
    bins, taken, bits = np.empty(x.shape, dtype=np.int64), [], []
    for at in range(x.shape[1]):
        score, edges = asked.array(f"score.{at}"), asked.array(f"grid.{at}")
        bins[:, at] = np.clip(bins_of(x[:, at], edges=edges), 0, len(score) - 1)
        occupied, count = np.unique(bins[:, at], return_counts=True)
        taken.append(len(occupied))
        steps = np.diff(score[occupied]) / (count[:-1] + count[1:])
        if (
            bool(np.any(np.diff(score) < 0))
            or bool(np.any(steps <= 0))
            or bool(np.any(steps > UNEVEN * steps.min(initial=np.inf)))
        ):
            raise few("the scores of ranks are not those of midranks")
        bits.append(_bits(score[occupied]))
    n = len(x)
    counts = [
        np.unique(bins[:, [i, j]], axis=0, return_counts=True)[1].astype(np.int64)
        for i, j in combinations(range(x.shape[1]), 2)
        if (unknowns := (taken[i] - 1) * (taken[j] - 1)) <= UNKNOWNS_MOST
        or unknowns * math.log2(1 + n / (taken[i] * taken[j])) <= bits[i] + bits[j] + math.log2(n)
    ]
    return Weights(counts=tuple(counts))


def _bits(score: Float) -> float:
    """Return how many bits the differences of scores have, in their own common unit."""
    steps = [Fraction(value) - Fraction(float(score[0])) for value in score.tolist()]
    unit = math.lcm(*(step.denominator for step in steps))
    whole = [int(step * unit) for step in steps]
    return math.log2(1 + whole[-1] // max(1, math.gcd(*whole)))


def _below(at: Float) -> Float:
    result: Float = np.exp(-np.logaddexp(0.0, -at))
    return result


def _not_steep(eta: Float) -> None:
    if float(np.abs(eta).max()) > STEEPEST:
        raise few("a linear predictor is so steep that it chooses patients")
