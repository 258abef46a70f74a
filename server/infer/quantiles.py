"""A histogram on the dictionary's grid and the quantiles that it gives; no minimum and no maximum, ever."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from common import fixed_point
from common.errors import ConfigError, NotEstimable
from common.query import Analysis, ask

TAIL_LEAST = 5  # patients on either side of a quantile that is shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The column `name`, its bin edges `grid`, and the `probabilities` strictly between 0 and 1."""

    name: str
    grid: tuple[float, ...]
    probabilities: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        if not all(0 < probability < 1 for probability in self.probabilities):
            raise ConfigError("A quantile lies strictly between 0 and 1.", action="Ask for no minimum and no maximum.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """One quantile: the patient of rank ceil(n probability) lies in [`low`, `high`); `estimate` is read along the bin.

    None, with a `diagnosis`, where fewer than five patients lie on one side.
    """

    probability: float
    estimate: float | None
    low: float | None
    high: float | None
    diagnosis: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """A histogram (`counts` per bin of `grid`) of `n` patients and its quantiles; `outside` more lie outside the grid."""

    name: str
    n: int
    grid: tuple[float, ...]
    counts: tuple[int, ...]
    outside: int
    quantiles: tuple[Quantile, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Quantiles]:
    """Ask once for the histogram. Raises NotEstimable "no patients" when nobody has a value on the grid."""
    counts = fixed_point.counts((yield ask("marginals", responses=[spec.name], numbers={"grid.0": spec.grid}))).tolist()
    outside = counts.pop()
    n = sum(counts)
    if n == 0:
        raise NotEstimable("no patients", term=spec.name, action="Nobody has a value on the grid.")
    return Quantiles(
        name=spec.name,
        n=n,
        grid=spec.grid,
        counts=tuple(counts),
        outside=outside,
        quantiles=tuple(_quantile(spec, counts, n=n, probability=probability) for probability in spec.probabilities),
    )


def _quantile(spec: Spec, counts: list[int], *, n: int, probability: float) -> Quantile:
    rank = max(1, math.ceil(n * probability))
    if min(rank, n + 1 - rank) <= TAIL_LEAST:
        return Quantile(probability=probability, estimate=None, low=None, high=None, diagnosis="too few patients beside it")
    before = 0
    at = 0
    while before + counts[at] < rank:
        before += counts[at]
        at += 1
    low, high = spec.grid[at], spec.grid[at + 1]
    within = min(max((n * probability - before) / counts[at], 0.0), 1.0)
    return Quantile(probability=probability, estimate=low + (high - low) * within, low=low, high=high, diagnosis=None)
