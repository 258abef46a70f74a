"""Fixed point for updates: floats as ring integers that `hospitals` of them cannot wrap, with a count of what was clipped.

For vectors that are private already, or exact. A differentially private sum keeps the grid of its mechanism (client/mask.py).
Layout: one word per value, then one word that counts the values that were clipped.
Source: reference secure-sum.md, section 7.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.crypto import ring
from common.mechanism import LocalSteps

SCALE_BITS_MOST: Final = 64
HOSPITALS_MOST: Final = 1 << 16
_SIGNED: Final[dict[int, Any]] = {32: np.int32, 64: np.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a plan turns values into words: x becomes round(x * 2**scale_bits) in the ring of `bits`.

    Guarantee: no sum of `hospitals` vectors wraps. Raises ValueError when a number is out of range.
    """

    bits: int  # 32 or 64
    scale_bits: int  # -64 to 64
    hospitals: int  # 1 to 65536

    def __post_init__(self) -> None:
        numbers = (self.bits, self.scale_bits, self.hospitals)
        if any(type(number) is not int for number in numbers) or self.bits not in _SIGNED:
            raise ValueError("the ring of an update has 32 or 64 bits")
        if abs(self.scale_bits) > SCALE_BITS_MOST or not 1 <= self.hospitals <= HOSPITALS_MOST:
            raise ValueError("scale or number of hospitals out of range")

    @property
    def scale(self) -> float:
        """Return 2**scale_bits."""
        return 2.0**self.scale_bits

    @property
    def magnitude_bits(self) -> int:
        """Return bits - 1 - ceil(log2 hospitals), the bits that one hospital's integers may use."""
        return self.bits - 1 - (self.hospitals - 1).bit_length()

    @property
    def limit(self) -> int:
        """Return the largest integer that one hospital may send: below 2**magnitude_bits, and exact as a float of the work."""
        below = self.magnitude_bits - (24 if self.bits == 32 else 53)
        return (1 << self.magnitude_bits) - (1 << max(0, below))

    @property
    def clip(self) -> float:
        """Return limit / scale: a value beyond it is clipped to it and counted."""
        return self.limit / self.scale

    @property
    def error_most(self) -> float:
        """Return hospitals / (2 * scale), the largest rounding error of a sum of values that were not clipped."""
        return self.hospitals / (2 * self.scale)


def of(mechanism: LocalSteps) -> Encoding:
    """Return the encoding of the changes that local steps release: it cuts nothing off that is not longer than update_norm."""
    return Encoding(bits=mechanism.ring_bits, scale_bits=mechanism.scale_bits, hospitals=mechanism.hospitals)


def encode(values: NDArray[Any], *, encoding: Encoding) -> ring.Words:
    """Return `values` as words and the count of those that were clipped, shape (d + 1,).

    values: shape (d,), float32 or float64; a ring of 64 bits works in float64. Rounds to nearest, ties to even. The count is
    itself clipped to the limit: a count that large means at least so many. Raises ValueError when a value is not finite,
    TypeError for another type or shape.
    """
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise TypeError("an update is one vector of float32 or float64")
    words = ring.zeros(len(values) + 1, bits=encoding.bits)
    integers, clipped = words.view(_SIGNED[encoding.bits]), 0
    rows = ring.chunk_rows(bits=encoding.bits)
    scaled = np.empty(rows, values.dtype if encoding.bits == 32 else np.float64)
    limit, scale = scaled.dtype.type(encoding.clip), scaled.dtype.type(encoding.scale)
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        out = scaled[: len(part)]
        np.clip(part, -limit, limit, out=out)
        changed = int(np.count_nonzero(out != part))  # what is not a number differs from itself: counted, then refused
        if changed and not np.isfinite(part).all():
            raise ValueError("a value is not finite")
        clipped += changed
        np.multiply(out, scale, out=out)
        np.rint(out, out=out)
        np.copyto(integers[start : start + len(part)], out, casting="unsafe")
    integers[-1] = min(clipped, encoding.limit)
    return words


def decode(words: ring.Words, *, encoding: Encoding, dtype: Any = np.float64) -> tuple[NDArray[Any], int]:  # noqa: ANN401
    """Return the sum of the values, shape (d,), of `dtype` float32 or float64, and how many were clipped.

    Guarantee: without clipping, off by at most `error_most` from the sum of what the hospitals encoded, plus one rounding to
    `dtype`, which is exact for float64 and a ring of 32 bits. Raises ValueError when the vector is empty or of another ring.
    """
    if words.ndim != 1 or not len(words) or words.dtype != ring.zeros(0, bits=encoding.bits).dtype:
        raise ValueError("a sum of updates is one vector of the ring with a count at its end")
    integers = words.view(_SIGNED[encoding.bits])
    values = np.empty(len(integers) - 1, dtype)
    inverse, rows = values.dtype.type(1 / encoding.scale), ring.chunk_rows(bits=encoding.bits)
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        np.copyto(part, integers[start : start + len(part)], casting="unsafe")
        np.multiply(part, inverse, out=part)
    return values, int(integers[-1])
