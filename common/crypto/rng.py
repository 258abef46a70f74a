"""Secret randomness: AES-256-CTR words keyed by the operating system, and the two draws that privacy rests on.

No function here takes a seed, and no generator of numpy or torch is involved. Running times depend on the draws: they are not
constant, so release on a schedule.
"""

import os
from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from common.mechanism import SHARE_BITS_MOST

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

WORD_BITS = 64
BLOCK = 1 << 18  # samples drawn at once: bounds memory, nothing else
_DOWN = Context(prec=64, rounding=ROUND_FLOOR)


def secret_bytes(n: int) -> bytes:
    """Return `n` bytes from the operating system."""
    return os.urandom(n)


class Stream:
    """A key stream of AES-256 in counter mode as 64-bit words; the key comes from the operating system and is never shown."""

    __slots__ = ("_encryptor",)

    def __init__(self) -> None:
        self._encryptor = Cipher(algorithms.AES256(secret_bytes(32)), modes.CTR(bytes(16))).encryptor()

    def words(self, n: int) -> NDArray[np.uint64]:
        """Return the next `n` uniform words, shape (n,), uint64."""
        return np.frombuffer(self._encryptor.update(bytes(8 * n)), dtype="<u8").astype(np.uint64, copy=False)

    def bits(self, n: int, *, width: int) -> Integers:
        """Return `n` uniform integers below 2**width, width from 0 to 62, shape (n,), int64."""
        if width == 0:
            return np.zeros(n, np.int64)
        return (self.words(n) >> np.uint64(WORD_BITS - width)).astype(np.int64)

    def below(self, n: int, *, bound: int) -> Integers:
        """Return `n` uniform integers in [0, bound), exactly uniform (by rejection), shape (n,), int64."""
        largest = np.uint64((2**WORD_BITS // bound) * bound - 1)
        words = self.words(n).copy()
        while (biased := words > largest).any():
            words[biased] = self.words(int(biased.sum()))
        return (words % np.uint64(bound)).astype(np.int64)


def poisson_sample(n: int, *, rate: Decimal) -> Flags:
    """Draw each of `n` patients independently with probability floor(rate * 2**64) / 2**64, shape (n,), bool.

    The probability is never above `rate`, so that an accountant that is told `rate` does not under-report. A rate of 1 takes
    everybody, a rate of 0 nobody. Raises ValueError outside [0, 1] or when `n` is negative.
    Source: reference training.md 1.2, step 1.
    """
    if n < 0 or not rate.is_finite() or not 0 <= rate <= 1:
        raise ValueError("a sampling rate lies between 0 and 1")
    threshold = int(_DOWN.multiply(rate, Decimal(2**WORD_BITS)).to_integral_value(rounding=ROUND_FLOOR))
    if threshold == 2**WORD_BITS:
        return np.ones(n, np.bool_)
    return np.asarray(Stream().words(n) < np.uint64(threshold))


def discrete_gaussian(n: int, *, share_bits: int) -> Integers:
    """Draw `n` exact samples of N_Z(0, 4**share_bits), shape (n,), int64.

    P(z) is proportional to exp(-z**2 / (2 * 4**share_bits)) for every integer z. Integers only, no floating point anywhere.
    `share_bits` from 0 to 24. Raises ValueError outside, or when `n` is negative.
    Source: Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, 2020, Algorithms 1 to 3 with t = sigma.
    """
    if n < 0 or not 0 <= share_bits <= SHARE_BITS_MOST:
        raise ValueError(f"share bits lie between 0 and {SHARE_BITS_MOST}")
    stream, out, done = Stream(), np.empty(n, np.int64), 0
    while done < n:
        candidates = _discrete_laplace(stream, min(BLOCK, int((n - done) * 1.35) + 32), width=share_bits)
        distance = np.abs(candidates) - (1 << share_bits)
        # beyond 2**31 the square leaves int64: reached with probability < exp(-120), and would be kept with < exp(-8000)
        far = np.abs(distance) > 1 << 31
        kept = _with_probability_exp(stream, np.where(far, 0, distance) ** 2, width=2 * share_bits + 1) & ~far
        accepted = candidates[kept][: n - done]
        out[done : done + len(accepted)] = accepted
        done += len(accepted)
    return out


def _discrete_laplace(stream: Stream, n: int, *, width: int) -> Integers:
    """Draw samples with P(x) proportional to exp(-|x| / 2**width)."""
    out, done = np.empty(n, np.int64), 0
    while done < n:
        low = stream.bits(int((n - done) * 1.75) + 16, width=width)
        low = low[_with_probability_exp_of_fraction(stream, low, width=width)]
        high = _geometric(stream, len(low))
        magnitude = low + (high << width)
        negative = stream.bits(len(magnitude), width=1).astype(np.bool_)
        drawn = np.where(negative, -magnitude, magnitude)[~(negative & (magnitude == 0))][: n - done]  # one zero, not two
        out[done : done + len(drawn)] = drawn
        done += len(drawn)
    return out


def _geometric(stream: Stream, n: int) -> Integers:
    """Count the successes of probability exp(-1) before the first failure."""
    count, live = np.zeros(n, np.int64), np.arange(n)
    while len(live):
        live = live[_with_probability_exp_of_fraction(stream, np.ones(len(live), np.int64), width=0)]
        count[live] += 1
    return count


def _with_probability_exp(stream: Stream, numerator: Integers, *, width: int) -> Flags:
    """Draw Bernoulli(exp(-numerator / 2**width)) for numerators >= 0: exp(-1) once per whole unit, then the fraction."""
    whole, fraction = numerator >> width, numerator & ((1 << width) - 1)
    out, live, units = np.ones(len(numerator), np.bool_), np.flatnonzero(whole), 0
    while len(live):
        success = _with_probability_exp_of_fraction(stream, np.ones(len(live), np.int64), width=0)
        out[live[~success]] = False
        units += 1
        live = live[success]
        live = live[whole[live] > units]
    live = np.flatnonzero(out)
    out[live] = _with_probability_exp_of_fraction(stream, fraction[live], width=width)
    return out


def _with_probability_exp_of_fraction(stream: Stream, numerator: Integers, *, width: int) -> Flags:
    """Draw Bernoulli(exp(-x)) for x = numerator / 2**width in [0, 1].

    Draws Bernoulli(x / j) for j = 1, 2, ... until the first failure, and accepts when that j is odd (Algorithm 1).
    """
    out, live, j = np.zeros(len(numerator), np.bool_), np.arange(len(numerator)), 1
    while len(live):
        success = stream.bits(len(live), width=width) < numerator[live]
        if j > 1:
            success &= stream.below(len(live), bound=j) == 0
        if j % 2:
            out[live[~success]] = True
        live, j = live[success], j + 1
    return out
