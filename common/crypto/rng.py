"""Secret randomness: AES-256-CTR words keyed by the operating system, and the two draws that privacy rests on.

No function here takes a seed, and no generator of numpy or torch is involved. Running times depend on the draws: they are not
constant, so release on a schedule.
"""

import os
from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from common.crypto.thresholds import Law, drawn, half_gaussian, success_exp_1
from common.mechanism import SHARE_BITS_MOST

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

WORD_BITS = 64
BLOCK = 1 << 16  # pairs tried at once: they stay in a core's cache
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

    def one_in(self, n: int, *, bound: int) -> Flags:
        """Return `n` flags that are set with probability 1 / bound, bound from 2, exactly (by rejection), shape (n,)."""
        share = 2**WORD_BITS // bound
        words = self.words(n).copy()
        while (biased := words > np.uint64(share * bound - 1)).any():
            words[biased] = self.words(int(biased.sum()))
        return np.asarray(words < np.uint64(share))

    def law(self, n: int, law: Law) -> Integers:
        """Return `n` exact draws of `law`, shape (n,), int64."""
        return drawn(self.words(n), law, more=self.words)


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

    P(z) is proportional to exp(-z**2 / (2 * 4**share_bits)) for every integer z. Integers only, no binary
    floating point anywhere. `share_bits` from 0 to 24. Raises ValueError outside, or when `n` is negative.
    With t = 2**share_bits, |z| = k t + x, x below t: k is drawn with P(k) proportional to exp(-k**2 / 2), x uniformly, and the
    pair is kept with probability exp(-x (x + 2 k t) / (2 t**2)), of all pairs 0.71.
    Source: Karney, Sampling Exactly from the Normal Distribution, 2016, Algorithm D; its coin: Canonne, Kamath, Steinke, The
    Discrete Gaussian for Differential Privacy, 2020, Algorithm 1.
    """
    if n < 0 or not 0 <= share_bits <= SHARE_BITS_MOST:
        raise ValueError(f"share bits lie between 0 and {SHARE_BITS_MOST}")
    stream, out, done = Stream(), np.empty(n, np.int64), 0
    while done < n:
        tried = min(BLOCK, int((n - done) * 1.42) + 32)
        high, low = stream.law(tried, half_gaussian), stream.bits(tried, width=share_bits)
        magnitude = low + (high << share_bits)
        negative = stream.bits(tried, width=1).astype(np.bool_)
        kept = _with_probability_exp(stream, low * (magnitude + (high << share_bits)), width=2 * share_bits + 1)
        kept &= ~(negative & (magnitude == 0))  # one zero, not two
        found = np.where(negative, -magnitude, magnitude)[kept][: n - done]
        out[done : done + len(found)] = found
        done += len(found)
    return out


def _with_probability_exp(stream: Stream, numerator: Integers, *, width: int) -> Flags:
    """Draw Bernoulli(exp(-numerator / 2**width)) for numerators >= 0: exp(-1) once per whole unit, then the fraction."""
    whole, fraction = numerator >> width, numerator & ((1 << width) - 1)
    out, live, units = np.ones(len(numerator), np.bool_), np.flatnonzero(whole), 0
    while len(live):
        success = stream.law(len(live), success_exp_1) == 0
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
            below = np.flatnonzero(success)
            success[below] = stream.one_in(len(below), bound=j)
        if j % 2:
            out[live[~success]] = True
        live, j = live[success], j + 1
    return out
