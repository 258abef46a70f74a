"""How good predicted values are, from the bounded sums of an evaluation: errors, share explained, correlation, slope."""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.evaluate import Z
from server.evaluation_measures import NONE, Estimate, stands_out
from server.infer.private.generator import generator

Float = NDArray[np.float64]

DRAWS: Final = 2000
PATIENTS_LEAST: Final = 4  # below, nothing has an interval


def measures(sums: Float, *, noise: float, lower: float, upper: float) -> dict[str, Any]:
    """Return the measures of scores.SUMS, of values scaled by their bounds to [0, 1]; errors are in the label's unit.

    From four patients on, the mean absolute error has a normal interval, whose variance follows from the sums; R squared, the
    correlation and the line of true on predicted values have percentile intervals of a parametric bootstrap: patients drawn
    from the normal distribution with these moments, and noise added again; keyed by the sums, so that equal sums give equal
    intervals. None where the number of patients does not stand out of the noise, or a variance is not above zero.
    """
    n, unit = float(sums[0]), upper - lower
    told: dict[str, Any] = {"patients": round(n) if noise == 0 else round(n, 1)}
    if n <= 0 or not stands_out(n, noise=noise, cells=1):
        return {**told, **{name: NONE.plain() for name in ("mean_absolute_error", "rmse", *MEASURES)}}
    rmse = math.sqrt(max(0.0, float(sums[3] + sums[5] - 2 * sums[6]) / n))
    told |= {
        "mean_absolute_error": _times(_absolute_error(sums, noise=noise), unit).plain(),
        "rmse": Estimate(value=rmse * unit).plain(),
    }
    found = _moments(sums)
    if n < PATIENTS_LEAST or found is None:
        return {**told, **{name: NONE.plain() for name in MEASURES}}
    ends = _bootstrap(sums, found, noise=noise)
    shown = {name: Estimate(value=ask(found), low=ends[name][0], high=ends[name][1]) for name, ask in MEASURES.items()}
    return {**told, **{name: one.plain() for name, one in shown.items()}}


def _moments(sums: Float) -> Float | None:
    """Return means and variances (true, predicted, true, predicted) and covariance; None where a variance is not above 0."""
    n, _, z, zz, p, pp, zp = sums.tolist()
    if n <= 0:
        return None
    mean_z, mean_p = z / n, p / n
    found = np.array([mean_z, mean_p, zz / n - mean_z**2, pp / n - mean_p**2, zp / n - mean_z * mean_p])
    return found if found[2] > 0 and found[3] > 0 else None


def _squared_error(found: Float) -> float:
    return float((found[0] - found[1]) ** 2 + found[2] + found[3] - 2 * found[4])


MEASURES: Final[dict[str, Callable[[Float], float]]] = {
    "r_squared": lambda found: float(1 - _squared_error(found) / found[2]),
    "correlation": lambda found: float(np.clip(found[4] / math.sqrt(found[2] * found[3]), -1, 1)),
    "slope": lambda found: float(found[4] / found[3]),
}


def _absolute_error(sums: Float, *, noise: float) -> Estimate:
    n, total = float(sums[0]), float(sums[1])
    squares = float(sums[3] + sums[5] - 2 * sums[6])
    mean = total / n
    error = math.sqrt(max(0.0, squares / n - mean * mean) / n + noise**2 * (1 + mean * mean) / n**2)
    if n < PATIENTS_LEAST or error == 0:  # a normal interval of so few claims what it cannot know
        return Estimate(value=max(0.0, mean))
    return Estimate(value=max(0.0, mean), low=max(0.0, mean - Z * error), high=max(0.0, mean + Z * error))


def _bootstrap(sums: Float, found: Float, *, noise: float) -> dict[str, tuple[float | None, float | None]]:
    """Return the percentile interval of each of MEASURES; ends are None where too many draws have no variance left."""
    random, n = generator(sums.astype("<f8").tobytes()), float(sums[0])
    freedom = max(1.0, n - 1)
    # Bartlett's decomposition of a Wishart matrix, and the mean, which is independent of it
    a = math.sqrt(found[2])
    b = found[4] / a
    c = math.sqrt(max(0.0, found[3] - b * b))
    chi_1, chi_2 = np.sqrt(random.chisquare(freedom, DRAWS)), np.sqrt(random.chisquare(max(1.0, freedom - 1), DRAWS))
    normal, first, second = random.standard_normal((3, DRAWS))
    l11, l21, l22 = a * chi_1, b * chi_1 + c * normal, c * chi_2
    mean_z = found[0] + a * first / math.sqrt(n)
    mean_p = found[1] + (b * first + c * second) / math.sqrt(n)
    zz, pp, zp = l11**2 + n * mean_z**2, l21**2 + l22**2 + n * mean_p**2, l11 * l21 + n * mean_z * mean_p
    drawn = np.stack([np.full(DRAWS, n), np.zeros(DRAWS), n * mean_z, zz, n * mean_p, pp, zp], axis=1)
    drawn += noise * random.standard_normal(drawn.shape)
    kept = [moments for row in drawn if (moments := _moments(row)) is not None]
    if len(kept) < 0.9 * DRAWS:
        return dict.fromkeys(MEASURES, (None, None))
    ends = {name: np.quantile([ask(one) for one in kept], [0.025, 0.975]).tolist() for name, ask in MEASURES.items()}
    return {name: (low, high) for name, (low, high) in ends.items()}


def _times(one: Estimate, unit: float) -> Estimate:
    value, low, high = (None if end is None else end * unit for end in (one.value, one.low, one.high))
    return Estimate(value=value, low=low, high=high)
