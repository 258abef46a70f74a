"""Epsilon of a list of releases: Renyi accounting for the gate, privacy-loss distributions for the report."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.mechanism import GaussianShare

Float = NDArray[np.float64]

INTEGER_ORDERS = np.array([*range(2, 64), 128, 256, 512, 1024], dtype=np.float64)
SMALL_ORDERS = 62  # of INTEGER_ORDERS, the consecutive ones
FRACTIONAL_ORDERS = np.array([tenth / 10 for tenth in range(11, 110) if tenth % 10], dtype=np.float64)
FRACTIONS_FROM = 0.3  # below this noise multiplier the quadrature is long and epsilon is hopeless anyway
NOISE_STEP = Decimal("1e-9")  # effective noise multipliers are rounded down to this, so that equal steps group
EPSILON_STEP = Decimal("1e-6")  # epsilons are rounded up to this
GRID = 1e-4  # of the privacy loss, in the report
GRID_COARSE = 1e-3  # where many different mechanisms are composed, or epsilon is so large that it is exact to 1e-5 of itself
GRID_ROUGH = 0.1  # to see how large epsilon is: time and memory grow with epsilon over the grid
EPSILON_FINE_MOST = 32.0
EPSILON_PLD_MOST = 512.0  # no privacy, and an auditor resolves no more (common/audit/recompute.py)
FINE_GROUPS_MOST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Equal steps: `count` Poisson-sampled Gaussian mechanisms, noise relative to the sensitivity."""

    noise_multiplier: Decimal
    sampling_rate: Decimal
    count: int


class Tally:
    """A growing bag of releases; adding one and reading its Renyi epsilon cost the same however many there are."""

    __slots__ = ("_counts", "_divergence")

    def __init__(self, releases: Iterable[GaussianShare] = ()) -> None:
        self._counts: Counter[tuple[Decimal, Decimal]] = Counter()
        self._divergence = 0.0  # what the discreteness of the noise may add, summed Kullback-Leibler
        for release in releases:
            self.add(release)

    def copy(self) -> "Tally":
        """Return an independent copy."""
        other = Tally()
        other._counts, other._divergence = self._counts.copy(), self._divergence
        return other

    def add(self, release: GaussianShare, *, times: int = 1) -> None:
        """Add a release, or take it back with times=-1; raises ValueError on noise that no accountant can take."""
        key, divergence = (effective_noise_multiplier(release), release.sampling_rate), _discreteness(release)
        self._counts[key] += times * release.compositions
        if not self._counts[key]:
            del self._counts[key]
        self._divergence += max(times, 0) * divergence  # never taken back: it stays an upper bound

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return the distinct mechanisms with their counts, in a fixed order."""
        return tuple(
            Group(noise_multiplier=noise, sampling_rate=rate, count=count)
            for (noise, rate), count in sorted(self._counts.items())
        )

    def delta_added(self, *, epsilon: float) -> float:
        """Return what is added to delta because the noise is discrete; infinite where it cannot be bounded.

        Source: reference training.md 1.3 and 1.4, P8: equal variance, first mismatch in the fourth cumulant, Pinsker.
        """
        if self._divergence == 0:
            return 0.0
        if epsilon > 600:
            return math.inf
        return (1 + math.exp(epsilon)) * math.sqrt(self._divergence / 2)

    def epsilon_rdp(self, *, delta: Decimal) -> float:
        """Return epsilon by Renyi accounting; valid when each release was chosen after seeing those before it.

        Integer orders hold exactly for the discrete noise (P6); the others only with `delta_added` taken off delta (P8).
        """
        target = _check_delta(delta)
        if not self._counts:
            return 0.0
        integer, fractional = np.zeros(len(INTEGER_ORDERS)), np.zeros(len(FRACTIONAL_ORDERS))
        for group in self.groups:
            one = one_step_rdp(float(group.noise_multiplier), float(group.sampling_rate))
            integer, fractional = integer + group.count * one[0], fractional + group.count * one[1]
        exact = convert(INTEGER_ORDERS, integer, target)
        left = target - self.delta_added(epsilon=exact)
        return exact if left <= 0 else min(exact, convert(FRACTIONAL_ORDERS, fractional, left))

    def epsilon_pld(self, *, delta: Decimal) -> float:
        """Return epsilon by dp-accounting's privacy-loss distribution (an upper bound), infinite where it cannot be had.

        Valid only for releases whose parameters and number were fixed before the first of them.
        """
        return self.with_discreteness(delta=delta, accountant=lambda left: _pld(self.groups, left))

    def with_discreteness(self, *, delta: Decimal, accountant: Callable[[float], float]) -> float:
        """Return `accountant(delta - delta_added)`; infinite where delta_added eats delta."""
        target = _check_delta(delta)
        if not self._counts:
            return 0.0
        reserved = 0.0
        for _ in range(8):
            epsilon = accountant(target - reserved)
            added = self.delta_added(epsilon=epsilon)
            if added <= reserved or added < target * 1e-12:  # less than the rounding of delta itself
                return epsilon
            reserved = 1.5 * added
            if reserved >= target:
                break
        return math.inf


def epsilon_rdp(releases: Sequence[GaussianShare], *, delta: Decimal) -> float:
    """Return epsilon at `delta` of `releases` by Renyi accounting: the gate's number, valid under adaptive choices.

    Unit: patient. Adjacency: add or remove one. No release: 0. Noise too small for floats: infinity, never NaN.
    Raises ValueError unless 0 < delta < 1, noise_multiplier > 0, 0 < sampling_rate <= 1 and two shares are honest.
    Source: Mironov 2017; Mironov, Talwar, Zhang 2019; conversion of Canonne, Kamath, Steinke 2020, proposition 12.
    """
    return Tally(releases).epsilon_rdp(delta=delta)


def epsilon_pld(releases: Sequence[GaussianShare], *, delta: Decimal) -> float:
    """Return epsilon at `delta` by dp-accounting's connect-the-dots PLD: the report's number, for pre-registered runs only.

    Grid 1e-4, or 1e-3 where more than 8 different mechanisms are composed or epsilon is above 32; infinite above 512.
    Raises as `epsilon_rdp`.
    Source: Doroshenko et al. 2022.
    """
    return Tally(releases).epsilon_pld(delta=delta)


def effective_noise_multiplier(m: GaussianShare) -> Decimal:
    """Return sigma * sqrt(1 - 1 / (12 h 4**b)), rounded down to 1e-9: what continuous accountants may be given; h is `shares`.

    Source: reference training.md 1.3.
    """
    return _effective(m.noise_multiplier, m.sampling_rate, m.shares, m.share_bits)


def noise_multiplier_for(*, epsilon: Decimal, delta: Decimal, sampling_rate: Decimal, steps: int) -> Decimal:
    """Return the smallest noise multiplier (to 1e-4, rounded up) with which `steps` steps stay within epsilon by RDP.

    For planning, so that the gate lets the last step through. Raises ValueError on values out of range and when none does.
    """
    target = _check_delta(delta)
    if not epsilon.is_finite() or epsilon <= 0 or not 0 < sampling_rate <= 1 or steps < 1:
        raise ValueError("epsilon must be positive, the sampling rate in (0, 1], steps at least 1")

    def spent(ticks: int) -> float:
        parts = zip(
            (INTEGER_ORDERS, FRACTIONAL_ORDERS),
            one_step_rdp(ticks / 1e4 - float(NOISE_STEP), float(sampling_rate)),
            strict=True,
        )
        return min(convert(orders, steps * divergence, target) for orders, divergence in parts)

    low, high = 0, 1 << 13
    while round_up(spent(high)) > epsilon:
        low, high = high, 2 * high
        if high > 1 << 40:
            raise ValueError("no noise is enough for this epsilon")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if round_up(spent(middle)) > epsilon else (low, middle)
    return Decimal(high) * Decimal("1e-4")


def round_up(epsilon: float) -> Decimal:
    """Return epsilon as a decimal of 6 places, never below the float; infinity stays infinity."""
    if math.isnan(epsilon):
        raise ValueError("epsilon is not a number")
    if math.isinf(epsilon):
        return Decimal("Infinity")
    with localcontext(prec=60):
        return (Decimal(epsilon) * (1 + Decimal("1e-12"))).quantize(EPSILON_STEP, rounding=ROUND_CEILING)


@lru_cache(maxsize=4096)
def one_step_rdp(noise_multiplier: float, sampling_rate: float) -> tuple[Float, Float]:
    """Return the Renyi divergences of one Poisson-sampled Gaussian step at INTEGER_ORDERS and FRACTIONAL_ORDERS.

    Integer orders by the binomial sum, fractional ones by the trapezoidal rule on the whole line.
    Source: Mironov, Talwar, Zhang 2019.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0 and 0 < sampling_rate <= 1):
        raise ValueError("the noise multiplier must be positive, the sampling rate in (0, 1]")
    with np.errstate(over="ignore"):
        if sampling_rate == 1:
            integer = INTEGER_ORDERS / 2 / noise_multiplier / noise_multiplier
            fractional = FRACTIONAL_ORDERS / 2 / noise_multiplier / noise_multiplier
        else:
            integer = _integer_orders(noise_multiplier, sampling_rate)
            fractional = _fractional_orders(noise_multiplier, sampling_rate)
    result = (integer, fractional)
    for part in result:
        part.setflags(write=False)
    return result


def _integer_orders(sigma: float, rate: float) -> Float:
    from scipy.special import logsumexp  # noqa: PLC0415  (the hospital's relay starts without scipy)

    parts = []
    for orders, binomials in _log_binomials():
        j = np.arange(binomials.shape[1])
        terms = binomials + j * math.log(rate) + (orders - j) * math.log1p(-rate)
        terms += np.where(j <= orders, j * (j - 1) / 2 / sigma / sigma, 0.0)
        too_large = np.isposinf(terms).any(axis=1)
        terms[too_large] = 0.0
        parts.append(np.where(too_large, math.inf, logsumexp(terms, axis=1) / (orders[:, 0] - 1)))
    return np.asarray(np.maximum(np.concatenate(parts), 0.0))


@lru_cache(maxsize=1)
def _log_binomials() -> tuple[tuple[Float, Float], ...]:
    """Return INTEGER_ORDERS, (order, 1), with the logarithms of their binomial coefficients, (order, j), -inf where j > order.

    The small orders are one table, each large one is a table of its own.
    """
    from scipy.special import gammaln  # noqa: PLC0415

    tables = []
    for part in np.split(INTEGER_ORDERS, range(SMALL_ORDERS, len(INTEGER_ORDERS))):
        orders, j = part[:, None], np.arange(part.max() + 1)
        below = np.maximum(orders - j, 0.0)
        logarithms = np.where(j <= orders, gammaln(orders + 1) - gammaln(j + 1) - gammaln(below + 1), -math.inf)
        tables.append((orders, logarithms))
    return tuple(tables)


def _fractional_orders(sigma: float, rate: float) -> Float:
    from scipy.special import logsumexp  # noqa: PLC0415

    if sigma < FRACTIONS_FROM:
        return np.full(len(FRACTIONAL_ORDERS), math.inf)
    step = min(sigma, sigma * sigma) / 8  # error below exp(-100): Gaussian, and zeros of the ratio pi*sigma^2 off the line
    x = np.arange(-14 * sigma, FRACTIONAL_ORDERS.max() + 14 * sigma, step)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * sigma * sigma))
    base = -x * x / (2 * sigma * sigma) + math.log(step / (sigma * math.sqrt(2 * math.pi)))
    moments = logsumexp(base + FRACTIONAL_ORDERS[:, None] * ratio, axis=1)
    return np.maximum(np.asarray(moments) / (FRACTIONAL_ORDERS - 1), 0.0)


def convert(orders: Float, divergence: Float, delta: float) -> float:
    """Return epsilon at `delta` from Renyi divergences at `orders`, the smallest over them."""
    if np.any(delta * delta + np.expm1(-divergence) > 0):  # the divergence alone bounds delta already
        return 0.0
    return max(0.0, float(np.min(divergence + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1))))


@lru_cache(maxsize=256)  # hospitals of one run ask for the same composition
def _pld(groups: tuple[Group, ...], delta: float) -> float:
    mean = sum(group.count / float(group.noise_multiplier) ** 2 / 2 for group in groups if group.sampling_rate == 1)
    if mean > EPSILON_PLD_MOST:  # of the loss: epsilon is above it
        return math.inf

    import dp_accounting  # noqa: PLC0415  (takes seconds)
    from dp_accounting import pld  # noqa: PLC0415

    def found(grid: float) -> float:
        accountant = pld.PLDAccountant(value_discretization_interval=grid)
        for group in groups:
            event = dp_accounting.GaussianDpEvent(float(group.noise_multiplier))
            if group.sampling_rate < 1:
                event = dp_accounting.PoissonSampledDpEvent(float(group.sampling_rate), event)
            accountant.compose(event, group.count)
        return float(accountant.get_epsilon(delta))

    about = found(GRID_ROUGH)
    if about > EPSILON_FINE_MOST:
        return found(GRID_COARSE) if about < EPSILON_PLD_MOST else math.inf
    return found(GRID if len(groups) <= FINE_GROUPS_MOST else GRID_COARSE)


@lru_cache(maxsize=4096)
def _effective(sigma: Decimal, rate: Decimal, honest: int, bits: int) -> Decimal:
    if not (sigma.is_finite() and rate.is_finite()) or sigma <= 0 or not 0 < rate <= 1:
        raise ValueError("the noise multiplier must be positive, the sampling rate in (0, 1]")
    if honest < 1 or not 0 <= bits <= 64:
        raise ValueError("no honest share of noise is left, or its size is out of range")
    with localcontext(prec=60):
        exact = sigma * (1 - 1 / (12 * honest * Decimal(4) ** bits)).sqrt()
        result = exact.quantize(NOISE_STEP, rounding=ROUND_FLOOR)
    if result <= 0:
        raise ValueError("the noise multiplier is too small to be accounted for")
    return result


def _discreteness(release: GaussianShare) -> float:
    if release.dimension < 1:
        raise ValueError("a release has at least one coordinate")
    variance = release.shares * 4.0**release.share_bits
    return release.compositions * release.dimension / (691_200 * variance**4)


def _check_delta(delta: Decimal) -> float:
    if not delta.is_finite() or not 0 < delta < 1 or float(delta) == 0:
        raise ValueError("delta must be between 0 and 1")
    return float(delta)
