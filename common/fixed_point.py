"""Real statistics as integers in Z_2^128 with 64 binary places: one rounding a row, then exact sums.

Every row is rounded alone, so the sum over rows is the same bits for any partition of them. Per row |value| <= 2**40, at most
2**22 rows, hence |sum| <= 2**126: nothing wraps. Rounding bound: 2**-65 a row, or a hospital where it adds one number.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

FRACTION_BITS = 64
ROW_LARGEST = 2.0**40
ROWS_MOST = 2**22  # of the whole federation, in every exact sum
HOSPITAL_LARGEST = 2.0**56  # 64 hospitals at most
DIGIT_BITS = 26  # four digits: 40 bits before the point and 64 behind it


def total(values: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return 2**64 times the column sums, each row rounded once to a multiple of 2**-64, ties to even.

    `values` has shape (rows, d); the result has shape (d,), Python integers. No rows give zeros.
    Raises DataError on more than 2**22 rows, or a value that is not finite or above 2**40 in size.
    """
    if len(values) > ROWS_MOST:
        raise DataError(f"The table has more than {ROWS_MOST} rows.", action="Split the study; the ring holds no more.")
    if not bool(np.all(np.abs(values) <= ROW_LARGEST)):
        raise DataError("A row's contribution does not fit the ring.", action="Declare bounds that are nearer to the data.")
    result = np.zeros(values.shape[1], dtype=object)
    rest = values
    for place in range(3, -1, -1):
        exponent = FRACTION_BITS - DIGIT_BITS * place
        digit = np.rint(np.ldexp(rest, exponent))
        rest = rest - np.ldexp(digit, -exponent)  # exact: both are multiples of the same last place
        result += digit.astype(np.int64).sum(axis=0).astype(object) << (DIGIT_BITS * place)
    return result


def once(values: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return 2**64 times each entry, rounded once: for numbers that a hospital forms as a whole.

    Raises DataError on a value that is not finite or above 2**56 in size.
    """
    if not bool(np.all(np.abs(values) <= HOSPITAL_LARGEST)):
        raise DataError(
            "A hospital's contribution does not fit the ring.", action="Declare bounds that are nearer to the data."
        )
    result = np.empty(len(values), dtype=object)
    result[:] = [round(Fraction(value) * 2**FRACTION_BITS) for value in values.tolist()]
    return result


def read(sums: Sequence[int]) -> NDArray[np.float64]:
    """Return opened integers as float64, each correctly rounded."""
    return np.array([int(value) / (1 << FRACTION_BITS) for value in sums], dtype=np.float64)


def counts(sums: Sequence[int]) -> NDArray[np.int64]:
    """Return opened integers that are counts; raises DataError when one is negative, not whole, or above 2**22."""
    whole = [divmod(int(value), 1 << FRACTION_BITS) for value in sums]
    if any(rest or not 0 <= count <= ROWS_MOST for count, rest in whole):
        raise DataError(
            "An opened sum holds a count that is none.", action="Do not use it; ask each hospital which version it runs."
        )
    return np.array([count for count, _ in whole], dtype=np.int64)
