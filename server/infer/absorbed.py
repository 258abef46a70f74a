"""Least squares with an intercept for each hospital, absorbed before anything leaves: one secure sum, no hospital's mean."""

from dataclasses import asdict, dataclass
from typing import Any

from common import within
from common.query import Analysis, ask
from server.infer import noncentral, regression
from server.infer.robust import Spec, grid_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One slope within hospitals; `partial_eta_squared` is its share of what the other terms and hospitals leave."""

    term: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float
    t: float
    p: float
    vif: float
    standardised: float
    partial_eta_squared: float
    eta_low: float
    eta_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorbed:
    """A fit; `r_squared`, `standardised` and `f` are those within hospitals, `df` counts one intercept a hospital."""

    outcome: str
    rows: tuple[Row, ...]
    n: int
    df: int
    hospitals: int
    r_squared: float
    sigma: float
    f: float
    f_p: float
    condition_number: float

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def fit(spec: Spec) -> Analysis[Absorbed]:
    """Ask once and solve exactly: the figures of pooled least squares with one indicator a hospital.

    Raises as regression.fit; "constant" names a column that varies between hospitals only. Source: Frisch, Waugh 1933;
    Lovell 1963; Steiger 2004 for the intervals of partial eta squared.
    """
    columns = (spec.outcome, *spec.predictors)
    names = tuple(one.name for one in columns)
    sums = yield ask("absorbed", responses=names[:1], predictors=names[1:])
    held, hospitals = within.from_total(sums, names=names, grid=grid_of(columns))
    plain = regression.fit(held, outcome=names[0], predictors=names[1:], absorbed=hospitals)
    rows = []
    for row in plain.rows:
        low, high = noncentral.explained(row.t**2, q=1, df=plain.df)
        share = row.t**2 / (row.t**2 + plain.df)
        rows.append(Row(**asdict(row), partial_eta_squared=share, eta_low=low, eta_high=high))
    return Absorbed(
        outcome=names[0],
        rows=tuple(rows),
        n=plain.n,
        df=plain.df,
        hospitals=hospitals,
        r_squared=plain.r_squared,
        sigma=plain.sigma,
        f=plain.f,
        f_p=plain.f_p,
        condition_number=plain.condition_number,
    )
