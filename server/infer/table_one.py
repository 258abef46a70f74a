"""Moments become Table 1: means and standard deviations of numbers, counts and shares of levels; never a minimum or maximum."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from common import terms
from common.moments import Moments
from common.study import Study

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number's mean, standard deviation (n - 1; nan for one patient) and the 95 % interval of the mean."""

    name: str
    unit: str
    mean: float
    sd: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many patients have a level, and their share with its Wilson interval."""

    name: str
    level: str
    count: int
    share: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOne:
    """The complete patients of the study: `n` of them; how many were left out as incomplete is told beside the Gram."""

    n: int
    numbers: tuple[Number, ...]
    shares: tuple[Share, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it; nan becomes None."""
        plain = asdict(self)
        plain["numbers"] = [
            {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()} for row in plain["numbers"]
        ]
        return plain


def describe(moments: Moments, *, study: Study, names: Sequence[str]) -> TableOne:
    """Describe the variables `names`, whose columns are in the Gram (study.statistics.descriptive).

    Guarantee: exact sums, rounded once; counts are exact. Raises ConfigError when a column is missing.
    Source: Wilson 1927.
    """
    numbers, shares = [], []
    for name in names:
        variable = study.variable(name)
        if variable.levels:
            others = [int(moments.mean(column.name) * moments.n) for column in terms.indicators(name, levels=variable.levels)]
            counts = [moments.n - sum(others), *others]
            shares += [_share(name, level, count, n=moments.n) for level, count in zip(variable.levels, counts, strict=True)]
        else:
            numbers.append(_number(moments, name=name, unit=variable.unit))
    return TableOne(n=moments.n, numbers=tuple(numbers), shares=tuple(shares))


def _number(moments: Moments, *, name: str, unit: str) -> Number:
    mean, df = float(moments.mean(name)), moments.n - 1
    if df == 0:
        return Number(name=name, unit=unit, mean=mean, sd=math.nan, ci_low=math.nan, ci_high=math.nan)
    sd = math.sqrt(moments.scatter(name, name) / df)
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * sd / math.sqrt(moments.n)
    return Number(name=name, unit=unit, mean=mean, sd=sd, ci_low=mean - reach, ci_high=mean + reach)


def _share(name: str, level: str, count: int, *, n: int) -> Share:
    z2 = float(stats.norm.isf((1 - CONFIDENCE) / 2)) ** 2
    share = count / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    low, high = (0.0 if count == 0 else centre - reach), (1.0 if count == n else centre + reach)
    return Share(name=name, level=level, count=count, share=share, ci_low=low, ci_high=high)
