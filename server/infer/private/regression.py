"""A noisy Gram becomes a table of coefficients with noise-aware intervals, in the dictionary's units."""

import math
from collections.abc import Sequence
from typing import Any

from common.noisy_moments import NoisyMoments
from server.infer.private import resolved
from server.infer.private.least_squares import INTERCEPT, Estimate, Fit, fit


def table(noisy: NoisyMoments, *, outcome: str, predictors: Sequence[str]) -> dict[str, Any]:
    """Return the fit as JSON can hold it: rows, n (noisy, rounded), df, sigma of the residuals, r_squared.

    A row: term, estimate, standard_error, ci_low, ci_high, t, df, p, standardised (None for the intercept, and where a variance
    does not stand out of the noise), box_ratio (half width of the term's declared bounds over the outcome's: it is public, so
    an interval times it keeps its coverage, while times a noisy sd it does not), width_ratio. `r_squared` has no interval,
    and is None where the outcome's own variance is noise.
    Raises as least_squares.fit.
    """
    made = fit(noisy, outcome=outcome, predictors=predictors)
    scatter = {name: _scatter(noisy, name=name) for name in (outcome, *predictors)}
    total = scatter[outcome]
    rows = [row(INTERCEPT, made.form({}, intercept=1.0), standardised=None, box_ratio=None)]
    for at, name in enumerate(predictors, start=1):
        spread = scatter[name]
        standardised = float(made.beta[at]) * math.sqrt(spread / total) if total and spread else None
        box_ratio = float(made.half[at] / made.half[0])
        rows.append(row(name, made.form({name: 1.0}), standardised=standardised, box_ratio=box_ratio))
    return {
        "outcome": outcome,
        "rows": rows,
        "n": round(made.n),
        "df": made.df,
        "sigma": math.sqrt(made.variance) * float(made.half[0]),
        "r_squared": _explained(made, total=total),
    }


def row(term: str, one: Estimate, *, standardised: float | None, box_ratio: float | None) -> dict[str, Any]:
    """Return an estimate as a row of a table."""
    return {
        "term": term,
        "estimate": one.value,
        "standard_error": one.standard_error,
        "ci_low": one.value - one.reach,
        "ci_high": one.value + one.reach,
        "t": one.t,
        "df": one.df,
        "p": one.p,
        "standardised": standardised,
        "box_ratio": box_ratio,
        "width_ratio": one.width_ratio,
    }


def _explained(made: Fit, *, total: float | None) -> float | None:
    return None if total is None else min(1.0, max(0.0, 1 - made.variance * made.df / total))


def _scatter(noisy: NoisyMoments, *, name: str) -> float | None:
    """Return the centred sum of squares of a column in z, None where it does not stand out of its noise."""
    (at,), m = resolved.positions(noisy, names=[name]), noisy.matrix
    mean = m[0, at] / m[0, 0]
    found = float(m[at, at] - mean * m[0, at])
    return found if found >= resolved.SCALAR_LEAST * noisy.sigma * (1 + mean**2) else None
