"""What a study may expect of its noisy Gram before anything is spent: widths, patients needed, power, by a made-up cohort.

The cohort's assumptions, which no data can mend before the release: each number is normal about the middle of its declared
bounds, which are three standard deviations away; each level of a factor is equally frequent; variables are independent. So a
coefficient's interval is forecast for predictors of no effect; correlated predictors need more patients than forecast.

With A = n times a matrix that does not depend on n, the noise's part of a variance is k / n of the sampling's, so the width
ratio is sqrt(1 + k / n), and a width of WIDER times that without noise needs n = k / (WIDER**2 - 1): 2.4 sigma**2 for
one predictor in standard deviations (reference statistics.md section 7), more as the predictors' spread in z is smaller. A
figure also has to stand out of the noise at all (resolved.py), which may need more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from common import terms
from common.noisy_moments import NoisyMoments, box
from common.study import Study
from server.infer import studentized
from server.infer.private import group_means, group_sums, least_squares, resolved
from server.infer.private.generator import generator
from server.infer.private.group_sums import GroupSums

Float = NDArray[np.float64]

ROWS = 4096
SPREADS = 3.0  # standard deviations from the middle of a box to its end
WIDER = 1.1
CORRELATION = 0.2  # the effect of a pair or a coefficient (partial correlation) whose power is told
COHEN_F = 0.25  # of a term
DIFFERENCE = 0.5  # of two groups, in standard deviations
ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Typical:
    """The made-up cohort: `mean` (p + 1, p + 1) of v v', clipped; `norms` are the median and the 99th centile of |v|.

    `clipped` is the share of patients that clip_norm shortens, `lost` the share of the sum of |v|**2 that it takes away.
    """

    columns: tuple[str, ...]
    mean: Float
    norms: tuple[float, float]
    clipped: float
    lost: float


def cohort(study: Study, *, clip_norm: float) -> Typical:
    """Make the typical cohort of a study; the same study gives the same one."""
    random = generator(b"typical cohort", study.hash().encode())
    table = {}
    for variable in study.variables:
        lower, upper = float(variable.lower), float(variable.upper)
        if variable.levels:
            table[variable.name] = random.integers(0, len(variable.levels), ROWS).astype(np.float64)
        else:
            low, high = special.ndtr(-SPREADS), special.ndtr(SPREADS)
            drawn = special.ndtri(low + random.random(ROWS) * (high - low))  # a normal, cut off at SPREADS
            table[variable.name] = np.clip((lower + upper) / 2 + drawn * (upper - lower) / (2 * SPREADS), lower, upper)
    dictionary = {variable.name: variable for variable in study.variables}
    v = [np.ones(ROWS)]
    for column in study.design():
        values = terms.values(column, of=table.__getitem__, bounds_of=study.declared_bounds, dictionary=dictionary)
        centre, half = box(*study.bounds(column))
        v.append((values - centre) / half)
    rows = np.column_stack(v)
    rows = rows[~np.isnan(rows).any(axis=1)]
    norms = np.sqrt((rows**2).sum(axis=1))
    kept = rows * np.minimum(1.0, clip_norm / norms)[:, None]
    median, high = np.quantile(norms, [0.5, 0.99]).tolist()
    return Typical(
        columns=study.columns(),
        mean=np.asarray(kept.T @ kept / len(rows)),
        norms=(median, high),
        clipped=float((norms > clip_norm).mean()),
        lost=float(1 - (kept**2).sum() / (rows**2).sum()),
    )


def coefficients(held: Typical, *, outcome: str, predictors: Sequence[str], n: int, sigma: float) -> list[dict[str, Any]]:
    """Return per coefficient {"term", "width_ratio", "patients_needed", "power"}: of a partial correlation of 0.2.

    `width_ratio` and `power` are None where n patients would not stand out of the noise.
    """
    inverse, variance, least = _fit(held, outcome=outcome, predictors=predictors, sigma=sigma)
    k = np.diag(_noise(inverse, sigma=sigma)) / (variance * np.diag(inverse))
    return [
        {"term": name, **_told(float(k[at]), n=n, least=least, power=_power(float(k[at]), n=n))}
        for at, name in enumerate(predictors, start=1)
    ]


def term(
    held: Typical, *, outcome: str, predictors: Sequence[str], columns: Sequence[str], name: str, n: int, sigma: float
) -> dict[str, Any]:
    """Return the same of the F test of `columns` among `predictors`, the power being that of Cohen's f = 0.25."""
    from scipy import stats  # noqa: PLC0415  (slow to import; every command of the coordinator imports this file)

    inverse, variance, least = _fit(held, outcome=outcome, predictors=predictors, sigma=sigma)
    at = [predictors.index(column) + 1 for column in columns]
    block = np.linalg.inv(inverse[np.ix_(at, at)])
    k = float(np.trace(block @ _noise(inverse, sigma=sigma)[np.ix_(at, at)])) / (variance * len(at))
    df = max(1, n - len(inverse))
    size = n * COHEN_F**2 / (1 + k / n)
    power = float(stats.ncf.sf(stats.f.isf(ALPHA, len(at), df), len(at), df, size))
    return {"term": name, "df": len(at), **_told(k, n=n, least=least, power=power)}


def pairs(held: Typical, *, names: Sequence[str], n: int, sigma: float) -> list[dict[str, Any]]:
    """Return per pair of `names` {"first", "second", "width_ratio", "patients_needed", "power"}, of r = 0.2."""
    at = [held.columns.index(name) + 1 for name in names]
    mean = held.mean[0, at] / held.mean[0, 0]
    variance = np.diag(held.mean)[at] - held.mean[0, 0] * mean**2
    made = []
    for j in range(len(names)):
        for i in range(j):
            a, b = ((1 + mean[x] ** 2) / variance[x] for x in (i, j))
            k = sigma**2 * float(a * b + (mean[i] * mean[j]) ** 2 / (variance[i] * variance[j])) / 2
            least = resolved.SCALAR_LEAST * sigma * float(max(a, b))
            told = _told(k, n=n, least=least, power=_power(k, n=n))
            made.append({"first": names[i], "second": names[j], **told})
    return made


def comparisons(held: Typical, *, study: Study, n: int, sigma: float) -> list[dict[str, Any]]:
    """Return per comparison of a factor's groups {"comparison", "method", "width_ratio", "patients_needed", "power"}.

    Of the pair that noise widens most; the power is that of a difference of 0.5 residual standard deviations, all pairs
    together. Methods: "Tukey-Kramer" with one variance, of ANCOVA too; "Games-Howell" with one per group, of groups only.
    """
    wanted = study.statistics
    both: list[tuple[str, str, str, Sequence[str]]] = []
    both += [(f"{one.outcome} by {one.factor}", one.outcome, one.factor, ()) for one in wanted.groups]
    both += [(one.formula, one.outcome, one.factor, one.covariates) for one in wanted.ancova]
    made = []
    for name, outcome, factor, covariates in both:
        levels = study.variable(factor).levels
        columns = [column.name for column in terms.indicators(factor, levels=levels)]
        critical = studentized.isf(ALPHA, k=len(levels), df=max(1, n - len(levels))) / math.sqrt(2)
        if covariates:
            ways = [("Tukey-Kramer", *_adjusted(held, outcome=outcome, columns=columns, others=covariates, sigma=sigma))]
        else:
            found = _release(held, study=study, n=n, sigma=sigma)
            sums = group_sums.read(found, outcome=outcome, factor=factor, levels=levels)
            ways = [
                (method, *_unadjusted(sums, n=n, pooled=pooled))
                for method, pooled in (("Tukey-Kramer", True), ("Games-Howell", False))
            ]
        for method, k, least in ways:
            away = DIFFERENCE / math.sqrt(2 * len(levels) / n * (1 + k / n))
            power = float(special.ndtr(away - critical) + special.ndtr(-critical - away))
            made.append({"comparison": name, "method": method, **_told(k, n=n, least=least, power=power)})
    return made


def _adjusted(
    held: Typical, *, outcome: str, columns: Sequence[str], others: Sequence[str], sigma: float
) -> tuple[float, float]:
    inverse, variance, least = _fit(held, outcome=outcome, predictors=[*columns, *others], sigma=sigma)
    forms = np.zeros((len(columns) + 1, len(inverse)))  # of the levels, the reference first
    forms[1:, 1 : len(columns) + 1] = np.eye(len(columns))
    first, second = np.triu_indices(len(forms), 1)
    pairs = forms[second] - forms[first]
    noise, sampling = (np.einsum("ki,ij,kj->k", pairs, one, pairs) for one in (_noise(inverse, sigma=sigma), inverse))
    return float((noise / (variance * sampling)).max()), least


def _unadjusted(sums: GroupSums, *, n: int, pooled: bool) -> tuple[float, float]:
    held = group_means.read(sums.sums, noise=sums.noise, pooled=pooled)
    where, bare = np.triu_indices(len(sums.levels), 1), held.variance / held.n
    added = held.errors(where) ** 2 / (bare[where[0]] + bare[where[1]]) - 1
    return n * float(added.max()), n / max(group_means.clear(sums, pooled=pooled), 1e-12)


def _release(held: Typical, *, study: Study, n: int, sigma: float) -> NoisyMoments:
    """Return what `n` typical patients would release, were the noise zero by chance."""
    boxes = [box(*study.bounds(column)) for column in study.design()]
    return NoisyMoments(
        columns=held.columns,
        centre=tuple(centre for centre, _ in boxes),
        half=tuple(half for _, half in boxes),
        matrix=n * (held.mean + held.mean.T) / 2,
        sigma=sigma,
        clip_norm=1.0,
        epsilon="",
        delta="",
        hospitals=1,
    )


def _fit(held: Typical, *, outcome: str, predictors: Sequence[str], sigma: float) -> tuple[Float, float, float]:
    """Return A**-1 and s**2 per patient, and how many patients stand out of the noise."""
    x = [0, *(held.columns.index(name) + 1 for name in predictors)]
    y = held.columns.index(outcome) + 1
    block = held.mean[np.ix_(x, x)]
    smallest = max(float(np.linalg.eigvalsh(block)[0]), 1e-12)
    inverse = np.asarray(np.linalg.pinv(block, hermitian=True))
    beta = inverse @ held.mean[x, y]
    variance = max(float(held.mean[y, y] - beta @ held.mean[x, y]), 1e-12)
    return inverse, variance, resolved.MATRIX_LEAST * sigma * math.sqrt(2 * len(x)) / smallest


def _noise(inverse: Float, *, sigma: float) -> Float:
    """Return n**2 times the noise's part of the covariance of coefficients that are zero."""
    return least_squares.covariance(np.zeros(len(inverse)), inverse=inverse, variance=0.0, sigma=sigma)


def _told(k: float, *, n: int, least: float, power: float) -> dict[str, Any]:
    stands = n >= least
    return {
        "width_ratio": math.sqrt(1 + k / n) if stands else None,
        "patients_needed": math.ceil(max(k / (WIDER**2 - 1), least)),
        "power": power if stands else 0.0,
    }


def _power(k: float, *, n: int) -> float:
    critical = float(-special.ndtri(ALPHA / 2))
    away = CORRELATION / math.sqrt((1 - CORRELATION**2) * (1 / max(n - 1, 1)) * (1 + k / n))
    return float(special.ndtr(away - critical) + special.ndtr(-critical - away))
