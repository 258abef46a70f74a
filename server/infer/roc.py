"""How well a score separates and predicts an outcome, from a histogram per class: ROC, DeLong, Youden, calibration."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common import fixed_point
from common.errors import NotEstimable
from common.query import Analysis, ask
from server import evaluate
from server.infer import newton

CONFIDENCE = 0.95
CLASSES = (-0.5, 0.5, 1.5)
RISK_GROUPS = 10
STEPS_MOST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A binary `outcome` and a `score` counted on the public `grid` of bin edges; high scores speak for outcome 1."""

    outcome: str
    score: str
    grid: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A proportion with Wilson's 95 % interval. Source: Wilson 1927."""

    estimate: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What calling a score at or above `threshold` positive gives."""

    threshold: float
    sensitivity: Proportion
    specificity: Proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskGroup:
    """Patients of similar predicted risk: how many, how many events were seen and expected."""

    n: int
    observed: int
    expected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Logit P(outcome) = intercept + slope logit(score); perfect is 0 and 1. `groups` with Hosmer and Lemeshow's chi-square."""

    intercept: float
    intercept_error: float
    slope: float
    slope_error: float
    groups: tuple[RiskGroup, ...]
    chi2: float
    chi2_df: int
    chi2_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roc:
    """The ROC of binned scores; `auc_off_most` bounds how far the AUC of the unbinned scores can be.

    `calibration` is None where the score is no probability, or `calibration_diagnosis` says why it has no answer.
    """

    n_positive: int
    n_negative: int
    auc: float
    auc_error: float | None
    auc_interval: tuple[float, float] | None
    diagnosis: str
    auc_off_most: float
    outside: int
    points: tuple[Point, ...]
    youden: Point
    calibration: Calibration | None
    calibration_diagnosis: str | None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Roc]:
    """Ask once for the histogram per class and read everything from it.

    Patients of one bin are ties; calibration takes each at its bin's middle. Exact where scores lie on the middles.
    Raises NotEstimable "constant" when a class has no patient.
    Source: DeLong, DeLong, Clarke-Pearson 1988; Youden 1950; Cox 1958; Hosmer, Lemeshow 1980.
    """
    bins = len(spec.grid) - 1
    sums = yield ask("table", responses=[spec.outcome, spec.score], numbers={"grid.0": CLASSES, "grid.1": spec.grid})
    counts = fixed_point.counts(sums)
    table = counts[:-1].reshape(2, bins)
    negative, positive = table
    n, p = int(negative.sum()), int(positive.sum())
    scored = evaluate.from_histogram(table)
    if scored.auc is None:
        raise NotEstimable("constant", term=spec.outcome, action="Both classes are needed.")
    points = tuple(
        Point(
            threshold=spec.grid[at],
            sensitivity=wilson(int(positive[at:].sum()), n=p),
            specificity=wilson(int(negative[:at].sum()), n=n),
        )
        for at in range(bins + 1)
    )
    calibration, why = None, None
    if spec.grid[0] >= 0 and spec.grid[-1] <= 1:
        try:
            calibration = calibrate(table, middles=np.array(spec.grid[:-1]) / 2 + np.array(spec.grid[1:]) / 2)
        except NotEstimable as error:
            why = error.diagnosis
    return Roc(
        n_positive=p,
        n_negative=n,
        auc=scored.auc,
        auc_error=scored.auc_standard_error,
        auc_interval=scored.auc_interval,
        diagnosis=scored.diagnosis,
        auc_off_most=int((negative * positive).sum()) / (2 * n * p),
        outside=int(counts[-1]),
        points=points,
        youden=max(points, key=lambda point: point.sensitivity.estimate + point.specificity.estimate),
        calibration=calibration,
        calibration_diagnosis=why,
    )


def wilson(successes: int, *, n: int) -> Proportion:
    """Return successes / n with Wilson's interval; raises NotEstimable without trials."""
    if n == 0:
        raise NotEstimable("no patients", term="proportion", action="Nobody is in the denominator.")
    z = float(stats.norm.isf((1 - CONFIDENCE) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Proportion(
        estimate=share,
        ci_low=0.0 if successes == 0 else centre - reach,
        ci_high=1.0 if successes == n else centre + reach,
    )


def calibrate(table: NDArray[np.int64], *, middles: NDArray[np.float64]) -> Calibration:
    """Calibrate from counts (2, bins) at predicted risks `middles`; raises NotEstimable as its text says."""
    some = table.sum(axis=0) > 0
    total, events, risk = table.sum(axis=0)[some], table[1][some], middles[some]
    if len(risk) < 3:
        raise NotEstimable("constant", term="score", action="Scores must lie in three bins at least.")
    seen, spared = np.flatnonzero(events), np.flatnonzero(total - events)
    if not seen.size or not spared.size or spared[-1] <= seen[0] or seen[-1] <= spared[0]:
        raise NotEstimable("separated", term="score", action="The score tells the classes apart without error.")
    x = np.stack([np.ones(len(risk)), np.log(risk) - np.log1p(-risk)], axis=1)
    b = np.zeros(2)
    for _ in range(STEPS_MOST):
        probability = 1 / (1 + np.exp(-x @ b))
        weight = total * probability * (1 - probability)
        covariance = newton.invert(x.T @ (x * weight[:, None]), names=("intercept", "slope"), diagnosis="separated")
        step = covariance @ (x.T @ (events - total * probability))
        if float(np.max(np.abs(step) / np.sqrt(np.diag(covariance)))) < newton.STEP_SMALLEST:
            break
        b = b + step
        if not bool(np.all(np.abs(x @ b) < 700)):
            raise NotEstimable("no convergence", term="score", action="Look at the table of risk groups.")
    else:
        raise NotEstimable("no convergence", term="score", action="Look at the table of risk groups.")
    groups = _risk_groups(total, events, risk)
    chi2 = math.fsum((g.observed - g.expected) ** 2 / (g.expected * (1 - g.expected / g.n)) for g in groups)
    df = len(groups)  # the score was made on other patients; on its own training patients two fewer
    return Calibration(
        intercept=float(b[0]),
        intercept_error=math.sqrt(covariance[0, 0]),
        slope=float(b[1]),
        slope_error=math.sqrt(covariance[1, 1]),
        groups=groups,
        chi2=chi2,
        chi2_df=df,
        chi2_p=float(stats.chi2.sf(chi2, df)),
    )


def _risk_groups(total: NDArray[np.int64], events: NDArray[np.int64], risk: NDArray[np.float64]) -> tuple[RiskGroup, ...]:
    """Cut the bins, whole ones only, into ten groups of about equal size."""
    before = np.cumsum(total) - total
    of = np.minimum((before + total / 2) * RISK_GROUPS / total.sum(), RISK_GROUPS - 1).astype(np.int64)
    return tuple(
        RiskGroup(
            n=int(total[of == group].sum()),
            observed=int(events[of == group].sum()),
            expected=math.fsum((total * risk)[of == group]),
        )
        for group in np.unique(of)
    )
