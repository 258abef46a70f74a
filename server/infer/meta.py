"""Sums of weights become heterogeneity between hospitals and the random-effects mean, without any hospital's own estimate.

Two rounds. First each hospital adds w, w b, w b**2 and w**2 with w = 1 / v, for its own estimate b of variance v. The
coordinator answers with tau**2. Then each adds w, w b and w b**2 with w = 1 / (v + tau**2), and the mean follows.
"""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from scipy import stats

from common.errors import NotEstimable, ProtocolError
from common.estimates import Weighted
from server.infer import noncentral

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Heterogeneity:
    """Cochran's Q with its p, I squared with an interval, and tau squared (DerSimonian and Laird, not below zero)."""

    hospitals: int
    fixed_effect: float
    fixed_standard_error: float
    q: float
    df: int
    p: float
    i_squared: float
    i_squared_low: float
    i_squared_high: float
    tau_squared: float

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomEffects:
    """The mean over hospitals with Hartung and Knapp's standard error; `prediction` is where a new hospital's effect lies.

    `wald_error` is DerSimonian and Laird's own, for a normal distribution; it takes tau squared for known. The prediction
    interval is nan below three hospitals.
    """

    hospitals: int
    estimate: float
    standard_error: float
    wald_error: float
    ci_low: float
    ci_high: float
    t: float
    df: int
    p: float
    prediction_low: float
    prediction_high: float

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it; nan becomes None."""
        return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(self).items()}


def heterogeneity(sums: Weighted) -> Heterogeneity:
    """Return how much more the hospitals' estimates differ than their own errors explain.

    The interval of I squared inverts the noncentral chi-square of Q. Raises NotEstimable below two hospitals, ProtocolError
    when no estimates have such sums. Source: DerSimonian and Laird 1986; Higgins and Thompson 2002.
    """
    _check(sums)
    df = sums.hospitals - 1
    if sums.weight_squared <= 0 or sums.weight_squared > sums.weight**2:
        raise _no_sums()
    exact = sums.second - sums.first**2 / sums.weight
    q = float(exact)
    low, high = noncentral.chi_square(q, df=df)
    tau_squared = max(Fraction(0), (exact - df) / (sums.weight - sums.weight_squared / sums.weight))
    return Heterogeneity(
        hospitals=sums.hospitals,
        fixed_effect=float(sums.first / sums.weight),
        fixed_standard_error=1 / math.sqrt(sums.weight),
        q=q,
        df=df,
        p=float(stats.chi2.sf(q, df)),
        i_squared=max(0.0, 1 - df / q) if q > 0 else 0.0,
        i_squared_low=low / (low + df),
        i_squared_high=high / (high + df),
        tau_squared=float(tau_squared),
    )


def random_effects(sums: Weighted, *, tau_squared: float) -> RandomEffects:
    """Return the mean from the second round's sums, made with this `tau_squared`.

    The standard error is Hartung and Knapp's, with t on hospitals - 1; it may be smaller than that of equal effects.
    Raises NotEstimable below two hospitals, or "perfect fit" where all estimates are the same; ProtocolError as above.
    Source: Hartung and Knapp 2001; Higgins, Thompson and Spiegelhalter 2009 for the prediction interval.
    """
    _check(sums)
    df = sums.hospitals - 1
    estimate = sums.first / sums.weight
    variance = (sums.second - sums.first**2 / sums.weight) / df / sums.weight
    if variance == 0:
        raise NotEstimable("perfect fit", term="random effects", action="All hospitals gave the same estimate.")
    value, error = float(estimate), math.sqrt(variance)
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * error
    new = math.nan
    if df > 1:
        new = float(stats.t.isf((1 - CONFIDENCE) / 2, df - 1)) * math.sqrt(tau_squared + variance)
    return RandomEffects(
        hospitals=sums.hospitals,
        estimate=value,
        standard_error=error,
        wald_error=1 / math.sqrt(sums.weight),
        ci_low=value - reach,
        ci_high=value + reach,
        t=value / error,
        df=df,
        p=2 * float(stats.t.sf(abs(value / error), df)),
        prediction_low=value - new,
        prediction_high=value + new,
    )


def _check(sums: Weighted) -> None:
    if sums.hospitals < 2:
        raise NotEstimable("too few hospitals", term="heterogeneity", action="It needs at least two hospitals' estimates.")
    if sums.weight <= 0 or sums.second < 0 or sums.second * sums.weight < sums.first**2:
        raise _no_sums()


def _no_sums() -> ProtocolError:
    return ProtocolError("No estimates have these sums.", action="Do not use them; ask each hospital which version it runs.")
