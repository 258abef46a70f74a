"""Do readers agree: ICC(2,1), ICC(3,1), Bland-Altman limits and Lin's concordance, from the Gram of their columns."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from scipy import stats

from common.errors import ConfigError, NotEstimable, ProtocolError
from common.query import Analysis, Column, ask, centre_half
from server.infer import second_moments
from server.infer.second_moments import SecondMoments

CONFIDENCE = 0.95
UPPER = (1 + CONFIDENCE) / 2
ROUNDED = Fraction(1, 1 << 52)  # of n and a squared half width: rounding of products moves a scatter by less than half of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One column per reader, one row per subject; subjects that every reader read enter."""

    readers: tuple[Column, ...]

    def __post_init__(self) -> None:
        if len({column.name for column in self.readers}) != len(self.readers) or len(self.readers) < 2:
            raise ConfigError("Agreement needs two different readers.", action="Mend the study.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Icc:
    """An intraclass correlation with its 95 % interval, and the F test of no agreement."""

    kind: str
    estimate: float
    ci_low: float
    ci_high: float
    f: float
    df1: float
    df2: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two readers: Bland and Altman's `bias` (first less second) with limits of agreement, and Lin's concordance.

    `bias_p` tests for no bias (paired t). `concordance` is None where neither reader's values vary.
    """

    first: str
    second: str
    bias: float
    bias_ci: tuple[float, float]
    bias_p: float
    sd: float
    limits: tuple[float, float]
    limit_error: float
    concordance: float | None
    concordance_ci: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of `readers` over `n` subjects; mean squares of subjects, readers and error as in two-way ANOVA."""

    readers: tuple[str, ...]
    n: int
    ms_subjects: float
    ms_readers: float
    ms_error: float
    icc: tuple[Icc, ...]
    pairs: tuple[Pair, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Agreement]:
    """Ask once for the Gram; mean squares are formed in exact rationals, so near-perfect agreement keeps its digits.

    Raises NotEstimable "too few rows" below 4 subjects, "constant" without spread between subjects, "perfect fit" without
    error; ProtocolError on sums that no readings have.
    Source: Shrout, Fleiss 1979; McGraw, Wong 1996; Bland, Altman 1986, 1999; Lin 1989, 2000.
    """
    names = tuple(column.name for column in spec.readers)
    held = second_moments.read((yield ask("gram", responses=names)), columns=spec.readers)
    if held is None or held.n < 4:
        raise NotEstimable("too few rows", term=names[0], action="Agreement needs at least 4 subjects.")
    held = _read(held, readers=spec.readers)
    n, k = held.n, len(names)
    zero = Fraction(0)
    total = sum((sum(row, zero) for row in held.scatter), zero)
    grand = sum(held.means, zero) / k
    between = total / k
    readers = n * sum(((mean - grand) ** 2 for mean in held.means), zero)
    inside = sum((held.scatter[i][i] for i in range(k)), zero) - between  # sum of squares of error
    ms_r, ms_c, ms_e = between / (n - 1), readers / (k - 1), inside / ((n - 1) * (k - 1))
    if ms_r <= 0:
        raise NotEstimable("constant", term=names[0], action="The subjects do not differ.")
    if ms_e <= ms_r * Fraction(1, 2**52):
        raise NotEstimable("perfect fit", term=names[0], action="The readers differ by a constant only.")
    return Agreement(
        readers=names,
        n=n,
        ms_subjects=float(ms_r),
        ms_readers=float(ms_c),
        ms_error=float(ms_e),
        icc=(_icc2(ms_r, ms_c, ms_e, n=n, k=k), _icc3(ms_r, ms_e, n=n, k=k)),
        pairs=tuple(_pair(held, names, i, j) for i in range(k) for j in range(i + 1, k)),
    )


def _read(held: SecondMoments, *, readers: Sequence[Column]) -> SecondMoments:
    """Return the moments with a scatter of zero, exactly, for readers whose values are equal up to the rounding of the sums.

    Raises ProtocolError where a reader's scatter is negative, or two readers' products are more than their scatters allow.
    """
    s, k = held.scatter, len(readers)
    halves = [Fraction(centre_half(one.lower, one.upper)[1]) for one in readers]
    slack = [held.n * ROUNDED * half**2 for half in halves]
    if any(s[i][j] ** 2 > (s[i][i] + slack[i]) * (s[j][j] + slack[j]) for i in range(k) for j in range(i)) or any(
        s[i][i] < -slack[i] for i in range(k)
    ):
        raise ProtocolError("The opened sum is not one of readings.", action="Do not use it; a hospital sent something else.")
    varies = [s[i][i] > slack[i] for i in range(k)]
    scatter = tuple(tuple(s[i][j] if varies[i] and varies[j] else Fraction(0) for j in range(k)) for i in range(k))
    return replace(held, scatter=scatter)


def _icc2(r: Fraction, c: Fraction, e: Fraction, *, n: int, k: int) -> Icc:
    """Absolute agreement of single readers drawn at random; interval with Satterthwaite's degrees of freedom."""
    estimate = (r - e) / (r + (k - 1) * e + k * (c - e) / n)
    own = float(estimate)
    a = k * own / (n * (1 - own))
    b = 1 + k * own * (n - 1) / (n * (1 - own))
    msr, msc, mse = float(r), float(c), float(e)
    v = (a * msc + b * mse) ** 2 / ((a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1)))
    low, high = float(stats.f.ppf(UPPER, n - 1, v)), float(stats.f.ppf(UPPER, v, n - 1))
    rest = k * msc + (k * n - k - n) * mse
    return Icc(
        kind="ICC(2,1)",
        estimate=own,
        ci_low=n * (msr - low * mse) / (low * rest + n * msr),
        ci_high=n * (high * msr - mse) / (rest + n * high * msr),
        **_f_test(r, e, n=n, k=k),
    )


def _icc3(r: Fraction, e: Fraction, *, n: int, k: int) -> Icc:
    """Consistency of these very readers."""
    test = _f_test(r, e, n=n, k=k)
    low = test["f"] / float(stats.f.ppf(UPPER, test["df1"], test["df2"]))
    high = test["f"] * float(stats.f.ppf(UPPER, test["df2"], test["df1"]))
    return Icc(
        kind="ICC(3,1)",
        estimate=float((r - e) / (r + (k - 1) * e)),
        ci_low=(low - 1) / (low + k - 1),
        ci_high=(high - 1) / (high + k - 1),
        **test,
    )


def _f_test(r: Fraction, e: Fraction, *, n: int, k: int) -> dict[str, float]:
    f, df1, df2 = float(r / e), float(n - 1), float((n - 1) * (k - 1))
    return {"f": f, "df1": df1, "df2": df2, "p": float(stats.f.sf(f, df1, df2))}


def _pair(held: SecondMoments, names: tuple[str, ...], i: int, j: int) -> Pair:
    n, s = held.n, held.scatter
    bias = held.means[i] - held.means[j]
    variance = max(Fraction(0), (s[i][i] + s[j][j] - 2 * s[i][j]) / (n - 1))
    sd = math.sqrt(variance)
    error = sd / math.sqrt(n)
    reach = float(stats.t.isf(1 - UPPER, n - 1)) * error
    normal = float(stats.norm.isf(1 - UPPER))
    center = float(bias)
    concordance, interval = _concordance(held, i, j)
    return Pair(
        first=names[i],
        second=names[j],
        bias=center,
        bias_ci=(center - reach, center + reach),
        bias_p=2 * float(stats.t.sf(abs(center) / error, n - 1)) if error > 0 else (1.0 if center == 0 else 0.0),
        sd=sd,
        limits=(center - normal * sd, center + normal * sd),
        limit_error=sd * math.sqrt(1 / n + normal**2 / (2 * (n - 1))),
        concordance=concordance,
        concordance_ci=interval,
    )


def _concordance(held: SecondMoments, i: int, j: int) -> tuple[float | None, tuple[float, float] | None]:
    """Lin's coefficient with his interval on the z scale (2000, corrected)."""
    n, s = held.n, held.scatter
    apart = (held.means[i] - held.means[j]) ** 2
    whole = s[i][i] + s[j][j] + n * apart
    if whole == 0:
        return None, None
    ccc = float(2 * s[i][j] / whole)
    product = s[i][i] * s[j][j]
    square = float(s[i][j] ** 2 / product) if product else 0.0
    if square == 0 or abs(ccc) >= 1:
        return ccc, None
    r = math.copysign(math.sqrt(square), s[i][j])
    u2 = float(apart) / math.sqrt(float(s[i][i] / n) * float(s[j][j] / n))
    off = 1 - ccc**2
    variance = (
        (1 - square) * ccc**2 / (off * square)
        + 2 * ccc**3 * (1 - ccc) * u2 / (r * off**2)
        - ccc**4 * u2**2 / (2 * square * off**2)
    ) / (n - 2)
    if variance <= 0:
        return ccc, None
    reach = float(stats.norm.isf(1 - UPPER)) * math.sqrt(variance)
    return ccc, (math.tanh(math.atanh(ccc) - reach), math.tanh(math.atanh(ccc) + reach))
