"""Groups become Welch's comparison of means without equal variances, with Games-Howell's and Tukey's comparisons of pairs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import special, stats

from server.infer import noncentral, studentized
from server.infer.groups import Group

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """One group: `ci_low` and `ci_high` from its own variance."""

    level: str
    n: int
    mean: float
    sd: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two groups compared: difference = second - first; the interval and p hold for all pairs together.

    `hedges_g` is the difference over the pooled standard deviation, corrected for small samples; its interval is the large
    sample one (Hedges and Olkin 1985).
    """

    first: str
    second: str
    difference: float
    standard_error: float
    ci_low: float
    ci_high: float
    q: float
    df: float
    p: float
    hedges_g: float
    hedges_g_low: float
    hedges_g_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Welch:
    """Welch's F with its degrees of freedom; `omega_squared` is adjusted for it, with an interval by the noncentral F."""

    outcome: str
    factor: str
    n: int
    means: tuple[Mean, ...]
    f: float
    df_between: int
    df_within: float
    p: float
    omega_squared: float
    omega_squared_low: float
    omega_squared_high: float
    games_howell: tuple[Pair, ...]
    tukey: tuple[Pair, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def compare(groups: Sequence[Group], *, outcome: str, factor: str) -> Welch:
    """Compare the means of at least two groups; `outcome` and `factor` name them in the result.

    Guarantee: means and variances are exact until they are rounded once; tails are `sf`, those of the studentized range too.
    Raises ValueError on fewer than two groups. Source: Welch 1951; Games and Howell 1976; Tukey-Kramer 1956.
    """
    k, n = len(groups), sum(group.n for group in groups)
    if k < 2:
        raise ValueError("a comparison needs at least two groups")
    weights = [group.n / group.variance for group in groups]
    weight = sum(weights)
    centre = sum(w * group.mean for w, group in zip(weights, groups, strict=True)) / weight
    between = sum(w * (group.mean - centre) ** 2 for w, group in zip(weights, groups, strict=True)) / (k - 1)
    spread = sum((1 - w / weight) ** 2 / (group.n - 1) for w, group in zip(weights, groups, strict=True))
    f = float(between / (1 + 2 * (k - 2) * spread / (k**2 - 1)))
    df = float((k**2 - 1) / (3 * spread))
    low, high = noncentral.interval(f, q=k - 1, df=df)
    error = sum(group.squares for group in groups) / (n - k)
    pairs = list(itertools.combinations(groups, 2))
    critical = studentized.isf(1 - CONFIDENCE, k=k, df=n - k)
    return Welch(
        outcome=outcome,
        factor=factor,
        n=n,
        means=tuple(_mean(group) for group in groups),
        f=f,
        df_between=k - 1,
        df_within=df,
        p=float(stats.f.sf(f, k - 1, df)),
        omega_squared=(k - 1) * (f - 1) / ((k - 1) * (f - 1) + n),
        omega_squared_low=low / (low + n),
        omega_squared_high=high / (high + n),
        games_howell=tuple(_games_howell(a, b, k=k) for a, b in pairs),
        tukey=tuple(
            _pair(a, b, variance=float(error * (a.n + b.n) / (a.n * b.n)), k=k, df=n - k, critical=critical) for a, b in pairs
        ),
    )


def _games_howell(first: Group, second: Group, *, k: int) -> Pair:
    parts = first.variance / first.n, second.variance / second.n
    df = float(sum(parts) ** 2 / (parts[0] ** 2 / (first.n - 1) + parts[1] ** 2 / (second.n - 1)))
    critical = studentized.isf(1 - CONFIDENCE, k=k, df=df)
    return _pair(first, second, variance=float(sum(parts)), k=k, df=df, critical=critical)


def _pair(first: Group, second: Group, *, variance: float, k: int, df: float, critical: float) -> Pair:
    exact = second.mean - first.mean
    difference, error = float(exact), math.sqrt(variance)
    q = abs(difference) / error * math.sqrt(2)
    reach = critical * error / math.sqrt(2)
    g, spread = _hedges(first, second)
    return Pair(
        first=first.level,
        second=second.level,
        difference=difference,
        standard_error=error,
        ci_low=difference - reach,
        ci_high=difference + reach,
        q=q,
        df=df,
        p=studentized.sf(q, k=k, df=df),
        hedges_g=g,
        hedges_g_low=g - spread,
        hedges_g_high=g + spread,
    )


def _hedges(first: Group, second: Group) -> tuple[float, float]:
    """Return Hedges' g and the half width of its interval."""
    df = first.n + second.n - 2
    d = float(second.mean - first.mean) / math.sqrt((first.squares + second.squares) / df)
    correction = math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)
    g = correction * d
    variance = (first.n + second.n) / (first.n * second.n) + g**2 / (2 * (first.n + second.n))
    return g, float(stats.norm.isf((1 - CONFIDENCE) / 2)) * math.sqrt(variance)


def _mean(group: Group) -> Mean:
    mean, sd = float(group.mean), math.sqrt(group.variance)
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, group.n - 1)) * sd / math.sqrt(group.n)
    return Mean(level=group.level, n=group.n, mean=mean, sd=sd, ci_low=mean - reach, ci_high=mean + reach)
