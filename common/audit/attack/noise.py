"""Checks of drawn noise: its size, its exact law, its independence, and that nothing is cut or repeated."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, chdtrc, ndtr, ndtri

from common.audit.attack.check import Check, dispersion, smallest_deficit, two_sided, unrelated
from common.audit.attack.drawn import Drawn

Integers = NDArray[np.int64]

LAGS: Final = 16
BINS: Final = 200
WINDOW: Final = 8  # consecutive integers of at least 8 bits: two equal windows are no chance
EXPECTED_LEAST: Final = 20  # draws expected of an integer that is counted alone
# odd multipliers: a window is told by one word of 64 bits, so two of a million windows agree by chance with probability 3e-8
MULTIPLIERS: Final = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, WINDOW + 1)], np.uint64)


def checks(drawn: Drawn) -> Iterator[Check]:
    """Yield the checks of the noise; a right build fails one of them with probability LEVEL each."""
    scale = 2.0**drawn.mechanism.share_bits
    honest = drawn.mechanism.honest
    shares = drawn.shares / scale
    yield _variance("size of a share", shares, claim=f"N(0, 4^{drawn.mechanism.share_bits})")
    yield _mean(shares)
    yield _each_coordinate(shares)
    yield _variance(f"size of {honest} shares' sum", drawn.sums / (scale * np.sqrt(honest)), claim=f"{honest} shares' variance")
    yield _shape(drawn.sums, deviation=scale * np.sqrt(honest))
    yield _opened(drawn)
    yield _variance("size at the limit", drawn.at_limit / scale, claim="a share's variance, where a sum is at its limit")
    for bits, small in sorted(drawn.small.items()):
        yield _integers(small, bits=bits)
    flat = shares.reshape(-1, shares.shape[2])
    yield unrelated("coordinates", claim="independent of their neighbours", rows=flat.T, lags=LAGS)
    yield _rows(flat)
    yield _repeats(drawn.shares)


def _variance(name: str, draws: NDArray[np.float64], *, claim: str) -> Check:
    power = f"finds noise {100 * smallest_deficit(draws.size):.2f} % too small"
    return dispersion(name, claim=claim, squares=float(np.square(draws).sum()), freedom=draws.size, power=power)


def _mean(shares: NDArray[np.float64]) -> Check:
    mean = float(shares.mean())
    p = float(2 * ndtr(-abs(mean) * np.sqrt(shares.size)))
    return Check(name="mean of a share", claim="0", seen=f"{mean:+.5f} standard deviations", p=p)


def _each_coordinate(shares: NDArray[np.float64]) -> Check:
    """Check the variance of every coordinate by itself: a layer without noise is small beside the whole vector."""
    squares = np.square(shares).sum(axis=(0, 1))
    freedom = shares.shape[0] * shares.shape[1]
    extreme = two_sided(below=float(chdtr(freedom, squares.min())), above=float(chdtrc(freedom, squares.max())))
    seen = f"{squares.min() / freedom:.3f} to {squares.max() / freedom:.3f} of the claimed variance"
    return Check(name="every coordinate", claim="noise in each", seen=seen, p=min(1.0, extreme * len(squares)))


def _shape(sums: Integers, *, deviation: float) -> Check:
    """Check the sums' law in bins of equal probability; exact to 1e-9 for a deviation above 1000 (Poisson summation)."""
    edges = np.rint(ndtri(np.linspace(0, 1, BINS + 1)[1:-1]) * deviation)
    counts = np.bincount(np.searchsorted(edges, sums.ravel()), minlength=BINS)  # bin k: edges[k - 1] < z <= edges[k]
    expected = np.diff(np.concatenate([[0.0], ndtr((edges + 0.5) / deviation), [1.0]])) * sums.size
    statistic = float((np.square(counts - expected) / expected).sum())
    seen = f"chi-squared {statistic:.0f} of {BINS - 1}"
    return Check(name="shape of the sum", claim="Gaussian", seen=seen, p=float(chdtrc(BINS - 1, statistic)))


def _opened(drawn: Drawn) -> Check:
    wrong = int((drawn.shares.sum(axis=1) != drawn.sums).sum())
    seen = f"{wrong} of {drawn.sums.size} coordinates differ"
    return Check(name="opened sum", claim="the sum of the shares, exactly", seen=seen, p=float(wrong == 0))


def _integers(draws: Integers, *, bits: int) -> Check:
    """Check the frequency of every integer against exp(-z^2 / (2 * 4^bits)), the rare ones of both tails together."""
    scale = 2**bits
    support = np.arange(-12 * scale, 12 * scale + 1)
    mass = np.exp(-(support**2) / (2.0 * scale**2))
    expected = mass / mass.sum() * len(draws)
    counts = np.bincount(np.clip(draws, support[0], support[-1]) - support[0], minlength=len(support))
    often = expected >= EXPECTED_LEAST
    seen, wanted = np.append(counts[often], counts[~often].sum()), np.append(expected[often], expected[~often].sum())
    statistic = float((np.square(seen - wanted) / wanted).sum())
    p = float(chdtrc(len(wanted) - 1, statistic))
    text = f"chi-squared {statistic:.0f} of {len(wanted) - 1}"
    return Check(name=f"every integer, {bits} bits", claim=f"N_Z(0, {4**bits})", seen=text, p=p)


def _rows(rows: NDArray[np.float64]) -> Check:
    """Check that no vector depends on another one: of other rounds, or of other hospitals in the same round."""
    products = (rows @ rows.T / np.sqrt(rows.shape[1]))[np.triu_indices(len(rows), 1)]
    p = float(chdtrc(len(products), np.square(products).sum()))
    seen = f"largest correlation {np.abs(products).max() / np.sqrt(rows.shape[1]):.5f} of {len(products)} pairs"
    return Check(name="rounds and hospitals", claim="independent of one another", seen=seen, p=p)


def _repeats(shares: Integers) -> Check:
    """Check that no run of WINDOW integers occurs twice anywhere: a key stream that is used again repeats them."""
    flat = shares.ravel().view(np.uint64)
    words = sum(flat[at : len(flat) - WINDOW + 1 + at] * multiplier for at, multiplier in enumerate(MULTIPLIERS))
    repeated = len(flat) - WINDOW + 1 - len(np.unique(words))
    seen = f"{repeated} of {len(flat) - WINDOW + 1} runs seen before"
    return Check(name="repeats", claim=f"no run of {WINDOW} integers twice", seen=seen, p=float(repeated == 0))
