"""A noisy Gram becomes principal components of the correlation matrix, with intervals that count sampling and noise.

Sampling and noise are simulated about the estimate: a Wishart scatter and normal means of the noisy number of patients, then
the noise of the release on every entry; the spread of the eigenvalues and loadings of such draws is their standard error. The
interval is the estimate -+ 1.96 of these. Ends by the draws' quantiles, and estimates less the draws' bias, were measured too
and cover less: the bias is already small wherever eigenvalues are apart (tests/statistical/test_private_components.py).

Eigenvalues which are not apart repel one another, the more the noise, and their vectors turn freely among themselves: no
interval of theirs holds. So neighbours less than APART standard errors apart are one row, the sum of their eigenvalues, which
does not suffer from it; loadings are of components that stand alone. For two equal eigenvalues the distance exceeds APART in
about exp(-APART**2 / 4) = 0.6 % of releases. A matrix that noise made indefinite is "too noisy" as a whole.
Source: Anderson 1963; Davison and Hinkley 1997, section 4.2.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.errors import NotEstimable
from common.noisy_moments import NoisyMoments
from server.infer.private import bootstrap, resolved
from server.infer.private.generator import generator

Float = NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 499  # they serve standard errors, not tails
APART = 4.5
LOADED_MOST = 10  # components whose loadings are told


def analyse(noisy: NoisyMoments, *, names: Sequence[str], draws: int = DRAWS) -> dict[str, Any]:
    """Return the components of the columns `names`, the largest first, as JSON can hold them.

    Keys: names, too_noisy (columns whose variance does not stand out of the noise: they are left out), n (noisy, rounded), of
    ("correlation"), rows, loadings. A row: component ("1", or "2 to 4" for those that cannot be told apart), eigenvalue (of
    several, their sum), ci_low, ci_high, share of the total, share_low, share_high, width_ratio (None of all together, whose
    sum is known). A loading: component, name, loading, ci_low, ci_high; the largest of a component is positive. Equal sums give
    equal results.
    Raises NotEstimable "too noisy" where fewer than two columns are left, no more patients than columns, or an eigenvalue is
    negative; ConfigError on a name.
    """
    n, columns = resolved.patients(noisy), resolved.positions(noisy, names=names)
    mean = noisy.matrix[0, columns] / n
    seen = np.diag(noisy.matrix)[columns] - n * mean**2 >= resolved.SCALAR_LEAST * noisy.sigma * (1 + mean**2)
    kept = [name for name, well in zip(names, seen.tolist(), strict=True) if well]
    if len(kept) < 2 or n < len(kept) + 3:
        raise NotEstimable(resolved.DIAGNOSIS, term="components", action=resolved.ACTION)
    rows = [0, *resolved.positions(noisy, names=kept)]
    matrix = noisy.matrix[np.ix_(rows, rows)]
    values, vectors = _decomposed(_correlation(matrix))
    if values[-1] < 0:
        raise NotEstimable(resolved.DIAGNOSIS, term="components", action=resolved.ACTION)
    vectors *= np.sign(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(len(kept))])
    both, bare, turned = _simulated(matrix, noisy=noisy, names=kept, draws=draws)
    clusters = _clusters(values, errors=both.std(axis=0))
    quantile, p = float(stats.norm.isf((1 - CONFIDENCE) / 2)), len(kept)
    table = []
    for one in clusters:
        value, error, alone = (float(made) for made in (values[one].sum(), _spread(both, one), _spread(bare, one)))
        ratio: float | None = error / alone if len(clusters) > 1 else None
        if len(clusters) == 1:  # all of them: their sum is the number of columns, whatever the sums
            value, error = float(p), 0.0
        low, high = max(0.0, value - quantile * error), min(float(p), value + quantile * error)
        made = {"component": _label(one), "eigenvalue": value, "ci_low": low, "ci_high": high}
        table.append(made | {"share": value / p, "share_low": low / p, "share_high": high / p, "width_ratio": ratio})
    return {
        "names": kept,
        "too_noisy": [name for name in names if name not in kept],
        "n": round(n),
        "of": "correlation",
        "rows": table,
        "loadings": [
            row
            for one in clusters
            if one.stop - one.start == 1 and one.start < LOADED_MOST
            for row in _loadings(vectors[:, one.start], reach=quantile * turned[:, one.start], names=kept, label=_label(one))
        ],
    }


def _correlation(matrix: Float) -> Float:
    """Return the correlation matrices of Grams (..., p + 1, p + 1), intercept first."""
    n, total = matrix[..., 0, 0], matrix[..., 0, 1:]
    scatter = matrix[..., 1:, 1:] - total[..., :, None] * total[..., None, :] / n[..., None, None]
    square = np.diagonal(scatter, axis1=-2, axis2=-1)
    size = np.sqrt(np.maximum(square, np.finfo(np.float64).tiny))
    with np.errstate(over="ignore"):  # of a variance that noise took away: 1 or -1
        return np.asarray(np.clip(scatter / size[..., :, None] / size[..., None, :], -1.0, 1.0))


def _decomposed(matrix: Float) -> tuple[Float, Float]:
    values, vectors = np.linalg.eigh(matrix)
    return np.ascontiguousarray(values[..., ::-1]), np.ascontiguousarray(vectors[..., ::-1])


def _simulated(matrix: Float, *, noisy: NoisyMoments, names: Sequence[str], draws: int) -> tuple[Float, Float, Float]:
    """Return the eigenvalues of draws with noise and without, (draws, p), and the errors of the loadings, (p, p).

    A matrix that noise left indefinite is drawn about the nearest one that is not.
    """
    n, p = float(matrix[0, 0]), len(matrix) - 1
    mean = matrix[0, 1:] / n
    squares, axes = np.linalg.eigh(matrix[1:, 1:] / n - np.outer(mean, mean))
    root = axes * np.sqrt(np.maximum(squares, 0.0))
    _, vectors = _decomposed(_correlation(_grams(root[None] * math.sqrt(n), mean=mean[None], n=n))[0])
    random = generator(noisy.matrix.tobytes(), "\n".join(("components", *names)).encode())
    both, bare, square = [], [], np.zeros((p, p))
    for size in _parts(draws, entries=(p + 1) ** 2):
        factor = np.tril(random.standard_normal((size, p, p)), -1)  # of a Wishart (Bartlett 1933)
        factor[:, np.arange(p), np.arange(p)] = np.sqrt(random.chisquare(n - 1 - np.arange(p), (size, p)))
        means = mean + random.standard_normal((size, p)) @ root.T / math.sqrt(n)
        exact = _grams(root @ factor, mean=means, n=n)
        bare.append(np.linalg.eigvalsh(_correlation(exact))[:, ::-1])
        values, drawn = _decomposed(_correlation(exact + bootstrap.symmetric(random, size=size, rows=p + 1, sigma=noisy.sigma)))
        both.append(values)
        drawn *= np.where((drawn * vectors).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
        square += ((drawn - vectors) ** 2).sum(axis=0)
    return np.concatenate(both), np.concatenate(bare), np.sqrt(square / draws)


def _grams(factor: Float, *, mean: Float, n: float) -> Float:
    """Return the Grams of n patients whose scatter is factor factor' and whose means are `mean`."""
    size, p = mean.shape
    made = np.empty((size, p + 1, p + 1))
    made[:, 0, 0] = n
    made[:, 0, 1:] = made[:, 1:, 0] = n * mean
    made[:, 1:, 1:] = factor @ factor.transpose(0, 2, 1) + n * mean[:, :, None] * mean[:, None, :]
    return made


def _parts(draws: int, *, entries: int) -> Iterator[int]:
    most = max(1, bootstrap.ENTRIES_MOST // entries)
    while draws > 0:
        yield min(draws, most)
        draws -= most


def _clusters(values: Float, *, errors: Float) -> list[slice]:
    """Return which neighbours cannot be told apart, in order."""
    clear = values[:-1] - values[1:] >= APART * np.maximum(errors[:-1], errors[1:])
    ends = [*(np.flatnonzero(clear) + 1).tolist(), len(values)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _spread(drawn: Float, one: slice) -> Float:
    return np.asarray(drawn[:, one].sum(axis=1).std())


def _label(one: slice) -> str:
    return str(one.stop) if one.stop - one.start == 1 else f"{one.start + 1} to {one.stop}"


def _loadings(vector: Float, *, reach: Float, names: Sequence[str], label: str) -> list[dict[str, Any]]:
    low, high = np.maximum(vector - reach, -1.0), np.minimum(vector + reach, 1.0)
    return [
        {"component": label, "name": name, "loading": float(value), "ci_low": float(least), "ci_high": float(most)}
        for name, value, least, most in zip(names, vector, low, high, strict=True)
    ]
