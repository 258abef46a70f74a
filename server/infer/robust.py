"""Least squares by two secure sums: an exact Gram, then sums over residuals for errors that assume less and for diagnostics."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from common import moments, residuals
from common.errors import ConfigError
from common.moments import Moments
from common.query import Analysis, Column, ask
from server.infer import regression, residual
from server.infer.residual import Residual


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """`outcome` = intercept + predictors; raises ConfigError on a repeated name or no predictor."""

    outcome: Column
    predictors: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [self.outcome.name, *(column.name for column in self.predictors)]
        if len(set(names)) != len(names) or not self.predictors:
            raise ConfigError("A model names each column once, and at least one predictor.", action="Mend the study.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One coefficient; `standardised` and its interval are in standard deviations of the outcome per one of the term.

    They and `vif` are None for the intercept.
    """

    term: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float
    t: float
    p: float
    df: int
    standardised: float | None
    standardised_low: float | None
    standardised_high: float | None
    vif: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Robust:
    """A fit: `rows` with HC3, `clustered` by hospital (none where there are too few), and the residuals' diagnostics."""

    outcome: str
    rows: tuple[Row, ...]
    clustered: tuple[Row, ...]
    n: int
    df: int
    hospitals: int
    r_squared: float
    sigma: float
    breusch_pagan: float
    breusch_pagan_p: float
    jarque_bera: float
    jarque_bera_p: float
    skewness: float
    kurtosis: float

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def grid_of(columns: tuple[Column, ...]) -> tuple[moments.Scale, ...]:
    """Return the columns' integer grids, as hospitals have them."""
    return tuple(moments.scale(one.name, bounds=(one.lower, one.upper)) for one in columns)


def fit(spec: Spec) -> Analysis[Robust]:
    """Fit, broadcast the fit, and read what the residuals say of it.

    Raises as regression.fit ("too few rows", "constant", "aliased", "perfect fit"), and ProtocolError when the second sum is
    not about the rows of the first. Source: MacKinnon, White 1985 (HC3); Liang, Zeger 1986 with the factor of Stata;
    Koenker 1981; Jarque, Bera 1980.
    """
    columns = (spec.outcome, *spec.predictors)
    names = tuple(one.name for one in columns)
    sums = yield ask("exact_gram", responses=names[:1], predictors=names[1:])
    pooled = moments.read(sums, names=names, grid=grid_of(columns))
    plain = regression.fit(pooled, outcome=names[0], predictors=names[1:])
    made = residual.broadcast(pooled, outcome=names[0], predictors=names[1:])
    made = residuals.from_query(made.query())  # the numbers as they travel
    said = residual.diagnose(residuals.from_total((yield made.query()), fit=made), fit=made)
    inflation = {row.term: row.vif for row in plain.rows}
    return Robust(
        outcome=names[0],
        rows=_rows(said, pooled, kind="hc3", inflation=inflation),
        clustered=_rows(said, pooled, kind="clustered", inflation=inflation),
        n=plain.n,
        df=plain.df,
        hospitals=said.hospitals,
        r_squared=plain.r_squared,
        sigma=plain.sigma,
        breusch_pagan=said.breusch_pagan,
        breusch_pagan_p=said.breusch_pagan_p,
        jarque_bera=said.jarque_bera,
        jarque_bera_p=said.jarque_bera_p,
        skewness=said.skewness,
        kurtosis=said.kurtosis,
    )


def _rows(said: Residual, pooled: Moments, *, kind: str, inflation: dict[str, float]) -> tuple[Row, ...]:
    made = []
    for row in said.hc3 if kind == "hc3" else said.clustered:
        slope = row.term != regression.INTERCEPT
        scale = (
            math.sqrt(pooled.scatter(row.term, row.term) / pooled.scatter(said.outcome, said.outcome)) if slope else math.nan
        )
        made.append(
            Row(
                term=row.term,
                estimate=row.estimate,
                standard_error=row.standard_error,
                ci_low=row.ci_low,
                ci_high=row.ci_high,
                t=row.t,
                p=row.p,
                df=row.df,
                standardised=row.estimate * scale if slope else None,
                standardised_low=row.ci_low * scale if slope else None,
                standardised_high=row.ci_high * scale if slope else None,
                vif=inflation[row.term] if slope else None,
            )
        )
    return tuple(made)
