"""Hospitals' own estimates as integers that are only summed: inverse variances and their products, rounded once a hospital.

Units: columns are scaled by their declared bounds (common/query.py). Squares of weights have 44 binary digits after the point,
all else 64: weights between 2**-6 and 2**37 keep ten decimal digits and fit the ring for 64 hospitals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.errors import DataError, ProtocolError
from common.query import GROUPS_MOST

BITS = 64
SQUARE_BITS = 44
LARGEST = 2**120


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One coefficient of a hospital's own fit and 1 / its variance."""

    value: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """Sums over `hospitals`, exact: of w, w b, w b**2 and w**2 (the last is not read in the second round)."""

    hospitals: int
    weight: Fraction
    first: Fraction
    second: Fraction
    weight_squared: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A hospital that shows its estimates: the place that was filled, its complete patients, one estimate a coefficient.

    As sent: places are added like all else, so that a hospital filled its own and no other's is not proven.
    """

    at: int
    n: int
    estimates: tuple[Estimate, ...]


def pack(estimates: Sequence[Estimate] | None, *, n: int, p: int) -> list[int]:
    """Return n, one where there are estimates, then w, w b, w b**2, w**2 a coefficient; zeros in place of no estimates.

    Raises DataError when a number does not fit the ring.
    """
    values = [n, int(estimates is not None)]
    for one in estimates or ():
        w, b = Fraction(one.weight), Fraction(one.value)
        values += [_fixed(w), _fixed(w * b), _fixed(w * b * b), _fixed(w * w, bits=SQUARE_BITS)]
    return values if estimates is not None else [*values, *[0] * (4 * p)]


def pack_again(estimates: Sequence[Estimate] | None, *, n: int, tau: Sequence[float]) -> list[int]:
    """Return n, one, then w, w b, w b**2 with w = 1 / (1 / w + tau), a coefficient; raises as `pack`."""
    values = [n, int(estimates is not None)]
    for one, extra in zip(estimates or (), tau, strict=False):
        w, b = 1 / (1 / Fraction(one.weight) + Fraction(extra)), Fraction(one.value)
        values += [_fixed(w), _fixed(w * b), _fixed(w * b * b)]
    return values if estimates is not None else [*values, *[0] * (3 * len(tau))]


def pack_shown(estimates: Sequence[Estimate] | None, *, at: int, n: int, p: int) -> list[int]:
    """Return 64 places of one, n, and per coefficient b and w; this hospital's filled where it has estimates to show."""
    width = 2 + 2 * p
    values = [0] * (GROUPS_MOST * width)
    if estimates is not None:
        own = [1, n, *(_fixed(number) for one in estimates for number in (Fraction(one.value), Fraction(one.weight)))]
        values[at * width : (at + 1) * width] = own
    return values


def unpack(total: Sequence[int], *, p: int) -> tuple[int, list[Weighted]]:
    """Read the opened sum of `pack`: patients, and the sums of each coefficient; raises ProtocolError."""
    return _unpack(total, p=p, width=4)


def unpack_again(total: Sequence[int], *, p: int) -> tuple[int, list[Weighted]]:
    """Read the opened sum of `pack_again`; raises ProtocolError."""
    return _unpack(total, p=p, width=3)


def unpack_shown(total: Sequence[int], *, p: int) -> list[Shown]:
    """Read the opened sum of `pack_shown`; raises ProtocolError when two hospitals filled one place, not when one lied."""
    width = 2 + 2 * p
    if len(total) != GROUPS_MOST * width:
        raise _wrong("it has the wrong length")
    found = []
    for at in range(GROUPS_MOST):
        there, n, *numbers = (int(value) for value in total[at * width : (at + 1) * width])
        if there not in {0, 1} or n < there or (not there and any((n, *numbers))):
            raise _wrong("a place holds no one hospital's numbers")
        if there:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            estimates = tuple(Estimate(value=b / 2**BITS, weight=w / 2**BITS) for b, w in pairs)
            if any(one.weight <= 0 for one in estimates):
                raise _wrong("a weight is not positive")
            found.append(Shown(at=at, n=n, estimates=estimates))
    return found


def _unpack(total: Sequence[int], *, p: int, width: int) -> tuple[int, list[Weighted]]:
    if len(total) != 2 + width * p:
        raise _wrong("it has the wrong length")
    n, hospitals = int(total[0]), int(total[1])
    if not 0 <= hospitals <= GROUPS_MOST or n < hospitals:
        raise _wrong("its counts are not possible")
    return n, [_weighted(total[2 + at * width : 2 + (at + 1) * width], hospitals=hospitals) for at in range(p)]


def _weighted(four: Sequence[int], *, hospitals: int) -> Weighted:
    numbers: Iterator[Fraction] = (
        Fraction(int(value), 2 ** (SQUARE_BITS if at == 3 else BITS)) for at, value in enumerate(four)
    )
    return Weighted(
        hospitals=hospitals,
        weight=next(numbers),
        first=next(numbers),
        second=next(numbers),
        weight_squared=next(numbers, Fraction(0)),
    )


def _fixed(value: Fraction, *, bits: int = BITS) -> int:
    made: int = round(value * 2**bits)
    if abs(made) >= LARGEST:
        raise DataError("A hospital's estimate does not fit the ring.", action="Declare bounds that are nearer to the data.")
    return made


def _wrong(why: str) -> ProtocolError:
    return ProtocolError(
        f"The opened sum is not one of hospitals' estimates: {why}.",
        action="Do not use it; ask each hospital which version it runs.",
    )
