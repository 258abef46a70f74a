"""Comparisons of groups and analyses of covariance equal scipy's and statsmodels' on the pooled rows."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import integrate, special, stats
from statsmodels.stats.multicomp import pairwise_tukeyhsd
from statsmodels.stats.oneway import anova_oneway

from common.errors import ConfigError, NotEstimable
from common.wanted import Ancova, Grouping
from server.infer import ancova, studentized, welch
from server.infer.groups import groups
from tests import tables
from tests.tables import FACTORS, GRADES, HEART_FACTORS, HEART_NUMBERS, NUMBERS, difference

GROUPING = Grouping(outcome="y", factor="grade")
WANTED = Ancova(outcome="y", factor="grade", covariates=("age", "x"))


def compared(frame: pd.DataFrame) -> welch.Welch:
    held = tables.study(NUMBERS, factors=FACTORS, groups=[GROUPING])
    made = groups(tables.pooled(frame, held=held), outcome="y", factor="grade", levels=GRADES)
    return welch.compare(made, outcome="y", factor="grade")


def parted(frame: pd.DataFrame) -> list[np.ndarray]:
    return [frame.loc[frame["grade"] == grade, "y"].to_numpy() for grade in GRADES]


def test_group_means_and_deviations_equal_those_of_the_rows() -> None:
    frame = tables.synthetic()
    for mean, rows in zip(compared(frame).means, parted(frame), strict=True):
        assert mean.n == len(rows)
        assert difference([mean.mean, mean.sd], [rows.mean(), rows.std(ddof=1)]) <= 1e-12
        interval = stats.t.interval(0.95, len(rows) - 1, rows.mean(), stats.sem(rows))
        assert difference([mean.ci_low, mean.ci_high], interval) <= 1e-10


def test_welch_equals_statsmodels() -> None:
    frame = tables.synthetic()
    ours, theirs = compared(frame), anova_oneway(parted(frame), use_var="unequal", welch_correction=True)
    assert difference(ours.f, theirs.statistic) <= 1e-10
    assert difference(ours.df_within, theirs.df_denom) <= 1e-10
    assert difference(ours.p, theirs.pvalue) <= 1e-10
    assert ours.omega_squared_low < ours.omega_squared < ours.omega_squared_high


@pytest.mark.parametrize("equal", [True, False], ids=["tukey", "games-howell"])
def test_pairs_equal_scipys(equal: bool) -> None:
    frame = tables.synthetic()
    ours = compared(frame)
    theirs = stats.tukey_hsd(*parted(frame), equal_var=equal)
    interval = theirs.confidence_interval(0.95)
    for pair in ours.tukey if equal else ours.games_howell:
        i, j = GRADES.index(pair.first), GRADES.index(pair.second)
        assert difference(pair.difference, theirs.statistic[j, i]) <= 1e-10
        assert abs(pair.p - theirs.pvalue[j, i]) <= 1e-11  # scipy's tail is one minus a sum
        assert difference([pair.ci_low, pair.ci_high], [interval.low[j, i], interval.high[j, i]]) <= 1e-8


def test_tukey_equals_statsmodels() -> None:
    frame = tables.synthetic()
    theirs = pairwise_tukeyhsd(frame["y"], frame["grade"])
    ours = compared(frame).tukey
    assert difference([pair.difference for pair in ours], theirs.meandiffs) <= 1e-10
    assert np.max(np.abs(np.array([pair.p for pair in ours]) - theirs.pvalues)) <= 1e-10


def test_hedges_g_is_the_corrected_standardised_difference() -> None:
    frame = tables.synthetic()
    first, second, _ = parted(frame)
    df = len(first) + len(second) - 2
    sd = math.sqrt((first.var(ddof=1) * (len(first) - 1) + second.var(ddof=1) * (len(second) - 1)) / df)
    d = (second.mean() - first.mean()) / sd
    pair = compared(frame).tukey[0]
    assert pair.hedges_g == pytest.approx(d * (1 - 3 / (4 * df - 1)), rel=1e-4)
    assert pair.hedges_g_low < pair.hedges_g < pair.hedges_g_high


@pytest.mark.parametrize(("q", "df"), [(0.01, 5), (3.3, 500), (30.0, 40), (12.0, 8.3), (45.0, 500), (200.0, 3)])
def test_studentized_range_of_two_is_students_t_in_every_tail(q: float, df: float) -> None:
    assert studentized.sf(q, k=2, df=df) == pytest.approx(2 * stats.t.sf(q / math.sqrt(2), df), rel=1e-10, abs=0)


@pytest.mark.parametrize("q", [3.5, 5.0, 54.0, 59.0, 80.0])
def test_studentized_range_of_a_million_patients_is_that_of_known_variance(q: float) -> None:
    found = studentized.sf(q, k=3, df=1e6)
    assert found <= 1e-300 if q > 50 else found == pytest.approx(studentized.sf(q, k=3, df=1e9), rel=1e-4)


@pytest.mark.parametrize(("q", "k", "df"), [(3.3, 3, 500), (1.0, 10, 5), (6.0, 5, 20), (4.0, 30, 60.5)])
def test_studentized_range_equals_scipys_where_that_is_not_small(q: float, k: int, df: float) -> None:
    assert studentized.sf(q, k=k, df=df) == pytest.approx(stats.studentized_range.sf(q, k, df), abs=1e-11)
    assert studentized.isf(studentized.sf(q, k=k, df=df), k=k, df=df) == pytest.approx(q, rel=1e-10)


def test_far_tail_of_the_studentized_range_equals_adaptive_quadrature() -> None:
    k, df, q = 5, 40, 20.0

    def beyond(width: float) -> float:
        def at(z: float) -> float:
            near = special.ndtr(z)
            return float(
                k * stats.norm.pdf(z) * near ** (k - 1) * -np.expm1((k - 1) * np.log1p(-special.ndtr(z - width) / near))
            )

        ends = (-8.0, width / 2, width + 8)
        return sum(integrate.quad(at, *pair, epsabs=0, epsrel=1e-11)[0] for pair in itertools.pairwise(ends))

    def density(s: float) -> float:
        return float(stats.chi2.pdf(df * s * s, df) * 2 * df * s)

    parts = [(0.2, 0.5), (0.5, 0.8), (0.8, 1.5)]
    truth = sum(integrate.quad(lambda s: density(s) * beyond(q * s), a, b, epsabs=0, epsrel=1e-10)[0] for a, b in parts)
    ours = studentized.sf(q, k=k, df=df)
    assert ours == pytest.approx(truth, rel=1e-9)
    assert 0 < ours < 1e-15


def test_studentized_range_below_zero_is_certain_and_beyond_float64_is_zero() -> None:
    assert studentized.sf(-1.0, k=3, df=10) == 1
    assert studentized.sf(1e6, k=3, df=1e5) == 0


@pytest.mark.parametrize(
    ("kept", "diagnosis", "term"),
    [
        ({"g1": 5, "g2": 1}, "too few rows", "grade[g2]"),
        ({"g2": 5}, "one group", "grade"),
        ({"g1": 1, "g3": 9}, "too few rows", "grade[g1]"),
    ],
)
def test_group_too_small_is_named(kept: dict[str, int], diagnosis: str, term: str) -> None:
    frame = tables.synthetic()
    frame = pd.concat([frame[frame["grade"] == grade].head(count) for grade, count in kept.items()])
    with pytest.raises(NotEstimable) as refused:
        compared(frame)
    assert (refused.value.diagnosis, refused.value.term) == (diagnosis, term)


@pytest.mark.parametrize("grade", GRADES)
def test_group_that_does_not_vary_is_named(grade: str) -> None:
    frame = tables.synthetic()
    frame.loc[frame["grade"] == grade, "y"] = 0.1
    with pytest.raises(NotEstimable) as refused:
        compared(frame)
    assert (refused.value.diagnosis, refused.value.term) == ("constant", f"grade[{grade}]")


def test_level_without_patients_is_left_out() -> None:
    frame = tables.synthetic()
    assert [mean.level for mean in compared(frame[frame["grade"] != "g2"]).means] == ["g1", "g3"]


def test_groups_whose_columns_were_not_asked_are_refused() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, models=["y ~ grade"])
    with pytest.raises(ConfigError, match="not a column"):
        groups(tables.pooled(tables.synthetic(), held=held), outcome="y", factor="grade", levels=GRADES)


def test_pooled_ancova_equals_statsmodels() -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, ancova=[WANTED]), tables.synthetic()
    ours = ancova.analyse(tables.pooled(frame, held=held), study=held, wanted=WANTED)
    common, slopes = (smf.ols(f"y ~ {right}", frame).fit(method="qr") for right in ("grade + age + x", "grade * (age + x)"))
    f, p, df = slopes.compare_f_test(common)
    assert ours.slopes is not None
    assert difference([ours.slopes.f, ours.slopes.p, ours.slopes.df], [f, p, df]) <= 1e-10
    at = pd.DataFrame({"grade": GRADES, "age": frame["age"].mean(), "x": frame["x"].mean()})
    theirs = common.get_prediction(at).summary_frame()
    for mean, (_, one) in zip(ours.means, theirs.iterrows(), strict=True):
        assert difference(mean.mean, one["mean"]) <= 1e-10
        assert difference(mean.standard_error, one["mean_se"]) <= 1e-10
        assert difference([mean.ci_low, mean.ci_high], [one["mean_ci_lower"], one["mean_ci_upper"]]) <= 1e-10
    for contrast, (i, j) in zip(ours.contrasts, itertools.combinations(range(3), 2), strict=True):
        row = np.zeros(5)
        row[j] += 1
        row[i] -= i > 0
        test = common.t_test(row)
        assert difference(contrast.difference, test.effect[0]) <= 1e-10
        assert difference(contrast.standard_error, test.sd.item()) <= 1e-10
        assert difference(contrast.p, test.pvalue.item()) <= 1e-10
        assert abs(contrast.p_tukey - stats.studentized_range.sf(abs(contrast.t) * math.sqrt(2), 3, ours.df)) <= 1e-11
        assert contrast.p <= contrast.p_tukey <= 1
        assert contrast.standardised == contrast.difference / ours.sigma


def test_ancova_of_four_heart_hospitals_equals_statsmodels() -> None:
    frame, hospital = tables.heart()
    wanted = Ancova(outcome="rate", factor="pain", covariates=("age", "pressure"))
    held = tables.study(HEART_NUMBERS, factors=HEART_FACTORS, ancova=[wanted])
    ours = ancova.analyse(tables.pooled(frame, held=held, hospitals=hospital), study=held, wanted=wanted)
    complete = frame.dropna()
    slopes = smf.ols("rate ~ pain * (age + pressure)", complete).fit(method="qr")
    f, p, _ = slopes.compare_f_test(smf.ols("rate ~ pain + age + pressure", complete).fit(method="qr"))
    assert ours.slopes is not None
    assert difference([ours.slopes.f, ours.slopes.p], [f, p]) <= 1e-10


def test_slopes_that_cannot_be_told_apart_are_diagnosed_and_the_rest_is_given() -> None:
    frame = tables.synthetic()
    frame.loc[frame["grade"] == "g3", "x"] = 1.0
    held = tables.study(NUMBERS, factors=FACTORS, ancova=[WANTED])
    ours = ancova.analyse(tables.pooled(frame, held=held), study=held, wanted=WANTED)
    assert (ours.slopes, ours.slopes_diagnosis) == (None, "grade[g3]:x: aliased")
    assert len(ours.means) == 3
