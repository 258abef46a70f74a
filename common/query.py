"""One question of an iterative analysis: which sums a hospital is asked for, in canonical bytes that it can check alone.

The contract. An analysis (server/infer/NAME.py) is a frozen specification and a generator,

    def fit(spec) -> Generator[Query, Sums, Result]

that yields queries and is sent the opened sums: integers, 2**64 times the pooled statistic (common/fixed_point.py). It holds no
rows and knows no carrier; whoever drives it announces each query, opens the sum and sends it in. Four kernels have units of
their own: exact_gram and absorbed sum products on the columns' 52-bit grids (common/moments.py, within.py), residuals those of
common/residuals.py, the meta kernels those of common/estimates.py. A kernel (client/kernels/)
is the hospital's answer: a pure function of the complete rows, the declared bounds and the query, a vector of
`dimension(query)` integers for Z_2^128. Row kernels round each row alone, so their sum is the same bits for any partition of
the rows.

A query is data. Its kernel is one of a closed set; its dimension, the variables that it reads and what its numbers may be
follow from itself alone. Coefficients travel as hexadecimal floats, so both sides use the same bits. Responses and
predictors are columns of the table that the hospital expands from the study's dictionary and terms: a query cannot build a
column, choose rows or carry a vector per row. Columns are centred and scaled by their declared bounds, z = (x - centre) /
half, |z| <= 1, the same everywhere.
"""

import itertools
import math
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from common import canonical
from common.errors import BadQuery
from common.fixed_point import ROWS_MOST

VARIABLES_MOST = 128
BINS_MOST = 4096
GROUPS_MOST = 64
DIMENSION_MOST = 1 << 17
NUMBERS_MOST = 1 << 17
COEFFICIENT_LARGEST = 2.0**20
OTHER_LARGEST = 2.0**60
LARGE = frozenset({"inverse", "ratio", "tau", "variances", "weights", "scale", "centre", "mean", "basis", "slope", "outcome"})
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_:()\[\]-]{0,255}")  # as common/terms.py spells columns
BYTES_MOST = 1 << 23

Sums = Sequence[int]
Numbers = tuple[tuple[str, tuple[float, ...]], ...]
Result = TypeVar("Result")
Analysis = Generator["Query", Sums, Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What one secure sum is asked of: a kernel, its columns, and public numbers by name, sorted.

    Raises BadQuery in the constructor: unknown kernel, too many variables or none, a name twice or malformed, numbers that are
    not exactly those of the kernel, not finite, too large, a grid that does not rise or has too many bins, a dimension above
    2**17.
    """

    kernel: str
    responses: tuple[str, ...]
    predictors: tuple[str, ...] = ()
    numbers: Numbers = ()

    def __post_init__(self) -> None:
        if self.kernel not in _SHAPES:
            raise _bad("its kernel is unknown")
        names = self.variables
        if not 1 <= len(names) <= VARIABLES_MOST or not self.responses:
            raise _bad("it has no variable, or too many")
        if len(set(names)) != len(names) or not all(NAME.fullmatch(name) for name in names):
            raise _bad("a variable is named twice or its name is malformed")
        keys = [key for key, _ in self.numbers]
        if keys != sorted(set(keys)) or sum(len(values) for _, values in self.numbers) > NUMBERS_MOST:
            raise _bad("its numbers are out of order, repeated or too many")
        for key, values in self.numbers:
            if not values or not all(type(value) is float and math.isfinite(value) for value in values):
                raise _bad("a number is not finite")
            _check(key.split(".")[0], values)
        expected, size = _SHAPES[self.kernel](self)
        if {key: len(values) for key, values in self.numbers} != expected:
            raise _bad("its numbers are not those of the kernel")
        if not 1 <= size <= DIMENSION_MOST:
            raise _bad("its dimension is too large")

    @property
    def variables(self) -> tuple[str, ...]:
        """Every column that it reads; a row enters when it has a value in all of them."""
        return self.responses + self.predictors

    def array(self, key: str) -> NDArray[np.float64]:
        """Return the numbers called `key`, shape (length,)."""
        return np.array(dict(self.numbers)[key], dtype=np.float64)

    def length(self, key: str) -> int:
        """Return how many numbers are called `key`; 0 when there are none."""
        return len(dict(self.numbers).get(key, ()))

    def bytes(self) -> bytes:
        """Return the canonical bytes that are hashed, signed and sent."""
        return canonical.encode(
            {
                "kernel": self.kernel,
                "responses": self.responses,
                "predictors": self.predictors,
                "numbers": {key: [value.hex() for value in values] for key, values in self.numbers},
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the study's table and its declared bounds, in its unit; raises BadQuery when they are not ordered."""

    name: str
    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise _bad("a column has no declared bounds")


def ask(
    kernel: str,
    *,
    responses: Sequence[str],
    predictors: Sequence[str] = (),
    numbers: Mapping[str, Sequence[float] | NDArray[np.float64]] | None = None,
) -> Query:
    """Return the query with its numbers in order; raises BadQuery as the type says."""
    return Query(
        kernel=kernel,
        responses=tuple(responses),
        predictors=tuple(predictors),
        numbers=tuple(sorted((key, tuple(float(v) for v in values)) for key, values in (numbers or {}).items())),
    )


def parse(data: bytes) -> Query:
    """Read a query from its canonical bytes; raises BadQuery on anything else, hostile or damaged."""
    if len(data) > BYTES_MOST:
        raise _bad("it is too long")
    try:
        plain: Any = canonical.decode(data)
        query = Query(
            kernel=_text(plain["kernel"]),
            responses=tuple(_text(name) for name in plain["responses"]),
            predictors=tuple(_text(name) for name in plain["predictors"]),
            numbers=tuple(
                (key, tuple(float.fromhex(_text(text)) for text in texts)) for key, texts in sorted(plain["numbers"].items())
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise _bad("its bytes cannot be read") from None
    if query.bytes() != data:
        raise _bad("its bytes are not canonical")
    return query


def dimension(query: Query) -> int:
    """Return how many integers answer `query`, from the query alone."""
    return _SHAPES[query.kernel](query)[1]


def triangle(size: int) -> int:
    """Return the number of entries of the upper triangle of a square matrix, diagonal included."""
    return size * (size + 1) // 2


def symmetric(upper: NDArray[np.float64], *, size: int) -> NDArray[np.float64]:
    """Return the symmetric matrix whose upper triangle, row by row, is `upper`."""
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = upper
    result: NDArray[np.float64] = matrix + np.triu(matrix, 1).T
    return result


def centre_half(lower: float, upper: float) -> tuple[float, float]:
    """Return the public centre and half width of a column, z = (x - centre) / half; both sides compute the same bits.

    `half` is a power of two, so that the division is exact, and |z| <= 1.
    """
    centre = lower / 2 + upper / 2
    _, exponent = math.frexp(max(upper - centre, centre - lower))
    return centre, math.ldexp(1.0, exponent)


Shape = tuple[dict[str, int], int]


def _glm(query: Query) -> Shape:
    _roles(query, responses=1)
    q = len(query.predictors) + 1
    return {"coefficients": q}, 3 + q + triangle(q)


def _firth(query: Query) -> Shape:
    _roles(query, responses=1)
    q = len(query.predictors) + 1
    return {"coefficients": q, "inverse": triangle(q)}, 1 + q


def _ordinal(query: Query) -> Shape:
    _roles(query, responses=1)
    cuts, p = query.length("thresholds"), len(query.predictors)
    m = cuts + p
    expected = {"thresholds": cuts} | ({"coefficients": p} if p else {})
    return expected, 1 + (cuts + 1) + 1 + m + triangle(m)


def _gram(query: Query) -> Shape:
    p = len(query.variables)
    return {}, 1 + p + triangle(p)


def _table(query: Query) -> Shape:
    expected = _grids(query)
    size = math.prod(edges - 1 for edges in expected.values())
    return expected, size + 1


def _marginals(query: Query) -> Shape:
    expected = _grids(query)
    return expected, sum(edges - 1 for edges in expected.values()) + 1


def _rank_gram(query: Query) -> Shape:
    expected = _grids(query)
    p = len(query.responses)
    return expected | {f"score.{i}": expected[f"grid.{i}"] - 1 for i in range(p)}, 1 + p + triangle(p)


def _cox(query: Query) -> Shape:
    _roles(query, responses=2)
    p, edges = len(query.predictors), query.length("grid.0")
    risk = 1 + p + triangle(p)
    return {"coefficients": p, "offset": 1, "grid.0": edges}, 2 + (edges - 1) * (2 * risk + 1 + p)


def _cox_stratified(query: Query) -> Shape:
    _roles(query, responses=2)
    p = len(query.predictors)
    return {"coefficients": p}, 3 + p + triangle(p)


def _lloyd(query: Query) -> Shape:
    p, flat = len(query.responses), query.length("centres")
    clusters = _groups(flat, p)
    return {"centre": p, "scale": p, "centres": flat}, clusters * (p + 2) + 1


def _mixture(query: Query) -> Shape:
    p, clusters = len(query.responses), query.length("weights")
    _groups(clusters, 1)
    expected = {"centre": p, "scale": p, "weights": clusters, "means": clusters * p, "variances": clusters * p}
    return expected, clusters * (1 + 2 * p) + 2


def _within(query: Query) -> Shape:
    c, x = len(query.predictors), len(query.responses)
    return {}, 1 + c + x + triangle(c) + c * x + x


def _mixed(query: Query) -> Shape:
    _roles(query, responses=1)
    size = len(query.predictors) + 2
    return {"ratio": 1}, 4 + 2 * triangle(size)


def _exact_gram(query: Query) -> Shape:
    _roles(query, responses=1)
    return {}, triangle(len(query.variables) + 1)


def _absorbed(query: Query) -> Shape:
    _roles(query, responses=1)
    return {}, 2 + triangle(len(query.variables))


def _residuals(query: Query) -> Shape:
    _roles(query, responses=1)
    p = len(query.predictors)
    expected = {"rows": 1, "mean": p, "scale": p, "basis": triangle(p), "slope": p, "outcome": 2}
    return expected, 5 + p + 2 * triangle(p + 1)


def _meta(query: Query) -> Shape:
    _roles(query, responses=1)
    return {}, 2 + 4 * len(query.predictors)


def _meta_random(query: Query) -> Shape:
    _roles(query, responses=1)
    p = len(query.predictors)
    return {"tau": p}, 2 + 3 * p


def _meta_rows(query: Query) -> Shape:
    _roles(query, responses=1)
    return {}, GROUPS_MOST * (2 + 2 * len(query.predictors))


_SHAPES: dict[str, Callable[[Query], Shape]] = {
    "logistic": _glm,
    "firth": _firth,
    "ordinal": _ordinal,
    "gram": _gram,
    "table": _table,
    "marginals": _marginals,
    "rank_gram": _rank_gram,
    "cox": _cox,
    "cox_stratified": _cox_stratified,
    "lloyd": _lloyd,
    "mixture": _mixture,
    "within": _within,
    "mixed": _mixed,
    "exact_gram": _exact_gram,
    "absorbed": _absorbed,
    "residuals": _residuals,
    "meta": _meta,
    "meta_random": _meta_random,
    "meta_rows": _meta_rows,
}


def _roles(query: Query, *, responses: int) -> None:
    if len(query.responses) != responses:
        raise _bad("it has the wrong number of responses")


def _groups(flat: int, p: int) -> int:
    if flat == 0 or flat % p or flat // p > GROUPS_MOST:
        raise _bad("it has no group, or too many")
    return flat // p


def _grids(query: Query) -> dict[str, int]:
    return {f"grid.{i}": query.length(f"grid.{i}") for i in range(len(query.responses))}


def _check(kind: str, values: tuple[float, ...]) -> None:
    if kind == "grid":
        if len(values) < 2 or len(values) - 1 > BINS_MOST:
            raise _bad("a grid has no bin, or too many")
        _rising(values)
    elif kind == "thresholds":
        if len(values) + 1 > GROUPS_MOST:
            raise _bad("it has too many levels")
        _rising(values)
    if kind in {"scale", "weights", "variances"} and min(values) <= 0:
        raise _bad("a scale, a weight or a variance is not positive")
    if kind in LARGE and max(map(abs, values)) > OTHER_LARGEST:
        raise _bad("a number is too large")
    _check_fit(kind, values)
    if kind in {"variances", "weights"} and min(values) < 1 / OTHER_LARGEST:
        raise _bad("a weight or a variance is too small")
    if kind in {"ratio", "tau"} and min(values) < 0:
        raise _bad("a variance ratio is negative")
    if (
        kind in {"coefficients", "thresholds", "centres", "means", "offset", "score"}
        and max(map(abs, values)) > COEFFICIENT_LARGEST
    ):
        raise _bad("a coefficient is too large")


def _check_fit(kind: str, values: tuple[float, ...]) -> None:
    if kind == "rows" and not (values[0].is_integer() and 1 <= values[0] <= ROWS_MOST):
        raise _bad("a number of rows is none")
    if kind == "outcome" and values[-1] < 1 / OTHER_LARGEST:
        raise _bad("a standard deviation is too small")


def _rising(values: tuple[float, ...]) -> None:
    if any(after <= before for before, after in itertools.pairwise(values)):
        raise _bad("a grid does not rise")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _bad(why: str) -> BadQuery:
    return BadQuery(f"A query is refused: {why}.", action="Check that both sides run the same version; ask for less.")
