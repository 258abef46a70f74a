"""The analyses beyond the Gram that a study may declare: variables, bins, sizes and caps, all public and fixed by the study."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from common.part import Name, Part, Text

ANALYSES_MOST = 64
QUERIES_MOST = 5000
PREFIX = "analysis-"  # of the statistic of an analysis in ledgers
INDEX_STEP = 10_000  # index = position * INDEX_STEP + number: which analysis, and the running number of its query from 1

Bins = Annotated[int, Field(ge=2, le=4096)]
Cap = Annotated[int, Field(ge=1, le=QUERIES_MOST)]
Inner = Annotated[Decimal, Field(gt=0, lt=1, max_digits=24)]
Clusters = Annotated[int, Field(ge=2, le=64)]


class Logistic(Part):
    """Logistic regression; the outcome is 0 or 1, or a factor of two levels. `queries_max` caps its sums, Firth's included."""

    kind: Literal["logistic"]
    formula: Text
    queries_max: Cap


class Ordinal(Part):
    """Proportional odds for an outcome with levels, the lowest first."""

    kind: Literal["ordinal"]
    formula: Text
    queries_max: Cap


class Robust(Part):
    """Least squares with standard errors that assume less (HC3; clustered by hospital), and what the residuals say."""

    kind: Literal["robust"]
    formula: Text


class Absorbed(Part):
    """Least squares with an intercept of its own for each hospital, which never leaves it."""

    kind: Literal["fixed-site"]
    formula: Text


class Meta(Part):
    """Each hospital's own least squares, combined. A "forest" also shows the estimates of hospitals whose policy allows it."""

    kind: Literal["meta-analysis", "forest"]
    formula: Text


class Mixed(Part):
    """A linear model with a random intercept of the hospital; only where a hospital allows site-level aggregates."""

    kind: Literal["mixed"]
    formula: Text
    queries_max: Cap


class Cox(Part):
    """Cox regression, `formula` being time ~ terms. With `bins`, one baseline on a time grid; without, one per hospital."""

    kind: Literal["cox"]
    formula: Text
    event: Name
    bins: Bins | None = None
    queries_max: Cap


class KaplanMeier(Part):
    """Kaplan-Meier curves on `bins` time intervals, by the levels of `group` where there is one, with the log-rank test."""

    kind: Literal["kaplan-meier"]
    time: Name
    event: Name
    bins: Bins
    group: Name | None = None


class Roc(Part):
    """ROC with DeLong's interval, Youden's point and calibration of `score`, counted on `bins`, for a binary outcome."""

    kind: Literal["roc"]
    outcome: Name
    score: Name
    bins: Bins


class Ranks(Part):
    """Kruskal-Wallis, and Mann-Whitney for two groups: `response`, counted on `bins`, between the levels of `group`."""

    kind: Literal["ranks"]
    response: Name
    group: Name
    bins: Bins


class Spearman(Part):
    """Rank correlations of numbers, each counted on `bins`."""

    kind: Literal["spearman"]
    variables: Annotated[tuple[Name, ...], Field(min_length=2, max_length=64)]
    bins: Bins


class Quantiles(Part):
    """A histogram on `bins` and the quantiles that it gives."""

    kind: Literal["quantiles"]
    variable: Name
    bins: Bins
    probabilities: Annotated[tuple[Inner, ...], Field(min_length=1, max_length=19)]


class KMeans(Part):
    """K-means of numbers for every k of `sizes`; the largest silhouette is taken."""

    kind: Literal["k-means"]
    variables: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    sizes: Annotated[tuple[Clusters, ...], Field(min_length=1, max_length=16)]
    queries_max: Cap


class Mixture(Part):
    """A mixture of diagonal Gaussians of numbers."""

    kind: Literal["mixture"]
    variables: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    components: Clusters
    queries_max: Cap


class Agreement(Part):
    """ICC, Bland-Altman limits and concordance of readers: one number per reader and patient."""

    kind: Literal["agreement"]
    readers: Annotated[tuple[Name, ...], Field(min_length=2, max_length=32)]


class Combat(Part):
    """ComBat harmonisation of numbers over hospitals, keeping what `covariates` explain.

    With `apply` it comes first, and every later sum of the study is made of the harmonised features (common/harmonisation.py).
    """

    kind: Literal["combat"]
    features: Annotated[tuple[Name, ...], Field(min_length=1, max_length=96)]
    covariates: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    apply: bool = False


Declared = Annotated[
    Logistic
    | Ordinal
    | Robust
    | Absorbed
    | Meta
    | Mixed
    | Cox
    | KaplanMeier
    | Roc
    | Ranks
    | Spearman
    | Quantiles
    | KMeans
    | Mixture
    | Agreement
    | Combat,
    Field(discriminator="kind"),
]


def iterated(one: Declared) -> bool:
    """Say whether the analysis asks one form again and again, up to its own cap; all others ask each of their forms once."""
    return isinstance(one, Logistic | Ordinal | Mixed | Cox | KMeans | Mixture)


def queries_most(one: Declared) -> int:
    """Return how many different queries the analysis may ask: its own cap, or what its kind needs."""
    if isinstance(one, Logistic | Ordinal | Mixed | Cox | KMeans | Mixture):
        return one.queries_max
    if isinstance(one, Meta) and one.kind == "forest":
        return 3
    return 2 if isinstance(one, Spearman | Robust | Meta) else 1


def index(position: int, *, number: int) -> int:
    """Return the announcement's index of query `number` (from 1) of the analysis at `position` (from 0)."""
    return position * INDEX_STEP + number


def place(announced: int) -> tuple[int, int]:
    """Return the position and the running number that an announcement's index holds."""
    return divmod(announced, INDEX_STEP)


def statistic(one: Declared, *, position: int) -> str:
    """Return the name under which the sums of an analysis stand in ledgers: its place in the study and its kind."""
    return f"{PREFIX}{position + 1}-{one.kind}"
