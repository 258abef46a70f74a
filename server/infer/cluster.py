"""K-means and diagonal Gaussian mixtures from sums per cluster, with public seeds and k chosen by the silhouette."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common import fixed_point
from common.errors import ConfigError, NotEstimable, ProtocolError
from common.query import GROUPS_MOST, Analysis, Column, ask
from server.infer import second_moments

Matrix = NDArray[np.float64]
ROUNDS_MOST = 100
MIXTURE_ROUNDS_MOST = 300
MIXTURE_GAIN_LEAST = 1e-10  # of the log-likelihood per patient
VARIANCE_LEAST = 1e-6  # of the pooled variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Clusters of patients in `columns`, each scaled by its pooled standard deviation, for every k in `sizes`, 2 or more."""

    columns: tuple[Column, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        names = {column.name for column in self.columns}
        if not self.columns or len(names) != len(self.columns):
            raise ConfigError("Clusters need columns, each named once.", action="Mend the study.")
        if not self.sizes or not all(2 <= k <= GROUPS_MOST for k in self.sizes):
            raise ConfigError(f"The number of clusters is 2 to {GROUPS_MOST}.", action="Mend the study.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """K-means with k clusters: mean simplified silhouette, or the diagnosis why there is none, and how many sums it took."""

    k: int
    silhouette: float | None
    within: float | None
    diagnosis: str
    queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """The best k-means: `centres` (k, p) in the columns' units, `within` in squared standard deviations."""

    columns: tuple[str, ...]
    n: int
    k: int
    centres: tuple[tuple[float, ...], ...]
    members: tuple[int, ...]
    within: float
    silhouette: float
    candidates: tuple[Candidate, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixture of diagonal Gaussians: `weights`, `means` and `standard_deviations` in the columns' units, with its BIC."""

    columns: tuple[str, ...]
    n: int
    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    standard_deviations: tuple[tuple[float, ...], ...]
    log_likelihood: float
    bic: float
    queries: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scaled:
    n: int
    mean: Matrix
    sd: Matrix
    axis: Matrix  # the first principal axis times the square root of its eigenvalue


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    centres: Matrix
    members: NDArray[np.int64]
    within: float
    silhouette: float
    diagnosis: str
    queries: int


def fit(spec: Spec) -> Analysis[Clusters]:
    """Run Lloyd's algorithm for every k from public seeds until the sums repeat; take the k of the largest silhouette.

    Seeds lie on the first principal axis of the pooled correlations, at normal quantiles: no patient's value is a seed.
    Raises NotEstimable "constant", "too few rows", or "no convergence" when every k left a cluster empty or did not settle.
    Source: Lloyd 1982; Su, Dy 2007 (seeds); Hruschka et al. 2004 (simplified silhouette).
    """
    scaled = yield from _scale(spec)
    found: dict[int, _Found] = {}
    candidates = []
    for k in spec.sizes:
        one = yield from _lloyd(spec, scaled, seeds=seeds(scaled.axis, k=k))
        ok = one.diagnosis == "ok"
        if ok:
            found[k] = one
        candidates.append(
            Candidate(
                k=k,
                silhouette=one.silhouette if ok else None,
                within=one.within if ok else None,
                diagnosis=one.diagnosis,
                queries=one.queries,
            )
        )
    if not found:
        raise NotEstimable("no convergence", term="clusters", action="Ask for fewer clusters.")
    k = max(found, key=lambda size: found[size].silhouette)
    best = found[k]
    return Clusters(
        columns=tuple(column.name for column in spec.columns),
        n=scaled.n,
        k=k,
        centres=_plain(best.centres * scaled.sd + scaled.mean),
        members=tuple(best.members.tolist()),
        within=best.within,
        silhouette=best.silhouette,
        candidates=tuple(candidates),
    )


def mixture(spec: Spec) -> Analysis[Mixture]:
    """Fit the mixture of `spec.sizes[0]` components by EM from the k-means clusters, unit variances first.

    Ends when a round gains less than 1e-10 log-likelihood a patient. Raises NotEstimable as `fit` does, and "collapsed" when a
    component closes in on single patients. Source: Dempster, Laird, Rubin 1977.
    """
    scaled = yield from _scale(spec)
    k, p = spec.sizes[0], len(spec.columns)
    start = yield from _lloyd(spec, scaled, seeds=seeds(scaled.axis, k=k))
    if start.diagnosis != "ok":
        raise NotEstimable(start.diagnosis, term=f"k = {k}", action="Ask for fewer components.")
    asked = start.queries + 1
    weights, means, variances = start.members / start.members.sum(), start.centres, np.ones((k, p))
    before = -math.inf
    for _ in range(MIXTURE_ROUNDS_MOST):
        sums = yield ask(
            "mixture",
            responses=[column.name for column in spec.columns],
            numbers={
                "centre": scaled.mean,
                "scale": scaled.sd,
                "weights": weights,
                "means": means.ravel(),
                "variances": variances.ravel(),
            },
        )
        asked += 1
        values = fixed_point.read(sums)
        likelihood = float(values[1])
        if likelihood - before < MIXTURE_GAIN_LEAST * scaled.n:
            break
        before = likelihood
        shares = values[2:].reshape(k, 1 + 2 * p)
        weights = shares[:, 0] / scaled.n
        means = shares[:, 1 : 1 + p] / shares[:, :1]
        variances = shares[:, 1 + p :] / shares[:, :1] - means**2
        if float(variances.min()) < VARIANCE_LEAST or float(weights.min()) * scaled.n < p + 1:
            raise NotEstimable("collapsed", term="mixture", action="Ask for fewer components.")
    else:
        raise NotEstimable("no convergence", term="mixture", action="Ask for fewer components.")
    likelihood -= scaled.n * float(np.log(scaled.sd).sum())
    parameters = k - 1 + 2 * k * p
    return Mixture(
        columns=tuple(column.name for column in spec.columns),
        n=scaled.n,
        weights=tuple(weights.tolist()),
        means=_plain(means * scaled.sd + scaled.mean),
        standard_deviations=_plain(np.sqrt(variances) * scaled.sd),
        log_likelihood=likelihood,
        bic=parameters * math.log(scaled.n) - 2 * likelihood,
        queries=asked,
    )


def seeds(axis: Matrix, *, k: int) -> Matrix:
    """Return k seeds in standard deviations, shape (k, p): the principal axis at the normal quantiles (i + 1/2) / k."""
    result: Matrix = np.outer(stats.norm.ppf((np.arange(k) + 0.5) / k), axis)
    return result


def _scale(spec: Spec) -> Analysis[_Scaled]:
    names = [column.name for column in spec.columns]
    held = second_moments.read((yield ask("gram", responses=names)), columns=spec.columns)
    if held is None or held.n <= max(spec.sizes) * 2:
        raise NotEstimable("too few rows", term=names[0], action="Ask for fewer clusters.")
    for i, name in enumerate(names):
        if held.scatter[i][i] <= 0:
            raise NotEstimable("constant", term=name, action="Leave it out: every patient has the same value.")
    sd = np.array([math.sqrt(held.scatter[i][i] / held.n) for i in range(len(names))])
    correlation = np.array([[float(value / held.n) for value in row] for row in held.scatter]) / np.outer(sd, sd)
    values, vectors = np.linalg.eigh(correlation)
    first = vectors[:, -1]
    first = first * math.copysign(1.0, first[int(np.argmax(np.abs(first)))])
    return _Scaled(n=held.n, mean=np.array([float(mean) for mean in held.means]), sd=sd, axis=first * math.sqrt(values[-1]))


def _lloyd(spec: Spec, scaled: _Scaled, *, seeds: Matrix) -> Analysis[_Found]:
    k, p = seeds.shape
    centres, before = seeds, list[int]()
    asked = 0
    while True:
        asked += 1
        answer = yield ask(
            "lloyd",
            responses=[column.name for column in spec.columns],
            numbers={"centre": scaled.mean, "scale": scaled.sd, "centres": centres.ravel()},
        )
        sums = [int(value) for value in answer]
        per = np.array(_rows(sums[:-1], width=p + 2), dtype=object)
        members = fixed_point.counts(per[:, 0].tolist())
        if int(members.sum()) != scaled.n:
            raise ProtocolError("The rows changed between two sums.", action="Run the analysis again.")
        state = per[:, : p + 1].ravel().tolist()
        empty, settled = int(members.min()) == 0, state == before
        if empty or settled or asked == ROUNDS_MOST:
            return _Found(
                centres=centres,
                members=members,
                within=float(fixed_point.read([int(per[:, p + 1].sum())])[0]),
                silhouette=float(fixed_point.read(sums[-1:])[0]) / scaled.n,
                diagnosis="empty cluster" if empty else "ok" if settled else "no convergence",
                queries=asked,
            )
        before = state
        centres = fixed_point.read(per[:, 1 : p + 1].ravel().tolist()).reshape(k, p) / members[:, None]


def _rows(values: Sequence[int], *, width: int) -> list[list[int]]:
    return [list(values[at : at + width]) for at in range(0, len(values), width)]


def _plain(matrix: Matrix) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
