"""Draws from laws of irrational probabilities, exactly: a uniform word between thresholds, and more words where it is on one.

A law on 0, 1, 2, ... is drawn by how many of the sums P(X <= 0), P(X <= 1), ... a uniform number of endless bits is above. Of
that number 64 bits are drawn; only where they are a sum's first 64 bits (less than once in 2**59 draws) do further bits decide.
"""

from bisect import bisect_right
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from itertools import accumulate
from math import isqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["Law", "drawn", "half_gaussian", "success_exp_1"]

Words = NDArray[np.uint64]
Law = Callable[[int], tuple[int, ...]]  # bits to floor(2**bits * P(X <= k)), k = 0, 1, ..., the last of ones alone

WORD_BITS = 64
SPARE_DIGITS = 80  # beyond half a digit a bit: what is cut off beyond the last sum is smaller than 2**-bits by 40 digits


def success_exp_1(bits: int) -> tuple[int, ...]:
    """Return the one threshold of P(X = 0) = exp(-1)."""
    with _precise(bits):
        return (int(Decimal(-1).exp() * 2**bits),)


def half_gaussian(bits: int) -> tuple[int, ...]:
    """Return the thresholds of P(X = k) proportional to exp(-k**2 / 2), k = 0, 1, ...; the last is of ones."""
    with _precise(bits):
        last = isqrt(2 * (bits + WORD_BITS))  # exp(-last**2 / 2) is below 2**-bits and more
        sums = list(accumulate((Decimal(-k * k) / 2).exp() for k in range(last + 1)))
        return tuple(int(one * 2**bits / sums[-1]) for one in sums[:-1])


def drawn(words: Words, law: Law, *, more: Callable[[int], Words]) -> NDArray[np.int64]:
    """Return one draw of `law` for each uniform word, int64; `more(n)` gives n further words."""
    floors, before = _table(law)
    found = np.searchsorted(floors, words, side="right")
    for at in np.flatnonzero(before[found] == words):
        found[at] = _decided(int(words[at]), law, more)
    return found.astype(np.int64, copy=False)


def _decided(word: int, law: Law, more: Callable[[int], Words]) -> int:
    bits = WORD_BITS
    while True:
        word, bits = word << WORD_BITS | int(more(1)[0]), bits + WORD_BITS
        floors = law(bits)
        found = bisect_right(floors, word)
        if found == 0 or floors[found - 1] != word:
            return found


@lru_cache
def _table(law: Law) -> tuple[Words, Words]:
    """Return the floors, and for each number of floors that a word is not below the last of these: a tie is an equal word."""
    floors = np.array(law(WORD_BITS), np.uint64)
    before = np.concatenate([floors[:1], floors])  # a word below all floors equals none
    floors.flags.writeable = before.flags.writeable = False
    return floors, before


def _precise(bits: int) -> AbstractContextManager[Context]:
    return localcontext(Context(prec=bits // 2 + SPARE_DIGITS))
