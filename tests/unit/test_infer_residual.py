"""Robust errors, diagnostics of residuals and absorbed hospitals equal statsmodels on the pooled rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.stattools import jarque_bera

from client import summarise
from common import moments, residuals, within
from common.errors import DataError, NotEstimable, ProtocolError
from common.study import Study
from server.infer import regression, residual
from tests import tables
from tests.tables import FACTORS, NUMBERS, difference

MODEL = "y ~ grade * x + sex + age"
HOSPITALS = 12


def held() -> Study:
    return tables.study(NUMBERS, factors=FACTORS, models=[MODEL])


def where(rows: int, *, hospitals: int = HOSPITALS) -> np.ndarray:
    return np.random.default_rng(8).integers(0, hospitals, rows)


def design(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    pieces = {
        "grade[g2]": frame["grade"].eq("g2"),
        "grade[g3]": frame["grade"].eq("g3"),
        "sex[m]": frame["sex"].eq("m"),
        "x": frame["x"],
        "age": frame["age"],
    }
    return np.column_stack([np.prod([pieces[piece].to_numpy(float) for piece in name.split(":")], axis=0) for name in names])


def asked(frame: pd.DataFrame, hospital: np.ndarray) -> tuple[residuals.Fit, list[int]]:
    study = held()
    pooled = tables.pooled(frame, held=study, hospitals=hospital)
    fit = residual.broadcast(pooled, outcome="y", predictors=study.model(MODEL).predictors)
    parts = [
        residuals.answer(design(part, fit.predictors), part["y"].to_numpy(), fit=fit, scored=True)
        for _, part in frame.groupby(hospital, sort=True)
    ]
    return fit, np.sum(parts, axis=0).tolist()


def test_robust_errors_and_diagnostics_equal_statsmodels() -> None:
    frame = tables.synthetic()
    hospital = where(len(frame))
    fit, total = asked(frame, hospital)
    ours = residual.diagnose(residuals.from_total(total, fit=fit), fit=fit)
    plain = smf.ols(MODEL, frame).fit(method="qr")
    robust = {
        "hc3": plain.get_robustcov_results("HC3", use_t=True),
        "clustered": plain.get_robustcov_results("cluster", groups=hospital, use_t=True),
    }
    order = {name: at for at, name in enumerate(plain.params.index)}
    for kind, theirs in robust.items():
        for row in getattr(ours, kind):
            at = order[row.term.replace("[", "[T.").replace("(intercept)", "Intercept")]
            assert difference(row.estimate, theirs.params[at]) <= 1e-10
            assert difference(row.standard_error, theirs.bse[at]) <= 1e-10, (kind, row.term)
            assert difference(row.p, theirs.pvalues[at]) <= 1e-10
            assert difference([row.ci_low, row.ci_high], theirs.conf_int()[at]) <= 1e-10
    assert len(ours.hc3) == len(ours.clustered) == len(order)
    lagrange, lagrange_p, _, _ = het_breuschpagan(plain.resid, plain.model.exog)
    bera, bera_p, skewness, kurtosis = jarque_bera(plain.resid)
    assert difference([ours.breusch_pagan, ours.breusch_pagan_p], [lagrange, lagrange_p]) <= 1e-10
    assert difference([ours.jarque_bera, ours.jarque_bera_p], [bera, bera_p]) <= 1e-9
    assert difference([ours.skewness, ours.kurtosis], [skewness, kurtosis]) <= 1e-10


def test_products_of_rows_are_the_same_bits_for_any_partition() -> None:
    frame = tables.synthetic()
    cut = residuals.size(7) - 36  # before the products of scores
    sums = []
    for hospitals in (1, 3, 50):
        fit, total = asked(frame, where(len(frame), hospitals=hospitals))
        sums.append([total[0], *total[2:cut]])
    assert len(fit.predictors) == 7
    assert sums[0] == sums[1] == sums[2]


def test_few_hospitals_give_no_clustered_errors() -> None:
    frame = tables.synthetic()
    fit, total = asked(frame, where(len(frame), hospitals=4))
    assert residual.diagnose(residuals.from_total(total, fit=fit), fit=fit).clustered == ()


def test_row_that_alone_determines_its_fit_is_refused_without_its_values() -> None:
    frame = tables.synthetic()
    frame["sex"] = "f"
    frame.loc[17, "sex"] = "m"
    with pytest.raises(DataError, match="alone determines"):
        asked(frame, where(len(frame)))


def test_hospital_without_rows_adds_nothing() -> None:
    fit, _ = asked(tables.synthetic(), where(400))
    assert residuals.answer(np.zeros((0, 7)), np.zeros(0), fit=fit, scored=True).tolist() == [0] * residuals.size(7)


def test_sum_about_other_rows_is_refused() -> None:
    fit, total = asked(tables.synthetic(), where(400))
    for bad in (total[:-1], [total[0] + 1, *total[1:]], [total[0], 0, *total[2:]], []):
        with pytest.raises(ProtocolError):
            residuals.from_total(bad, fit=fit)
    zeros = residuals.from_total([total[0], 1, *[0] * (len(total) - 2)], fit=fit)
    with pytest.raises(ProtocolError):
        residual.diagnose(zeros, fit=fit)


def read(total: Sequence[int], study: Study) -> tuple[moments.Moments, int]:
    return within.from_total(total, names=study.columns(), grid=moments.scales(study))


def absorbed(frame: pd.DataFrame, hospital: np.ndarray, study: Study) -> tuple[moments.Moments, int]:
    parts = [
        within.within(summarise.complete_rows(tables.cohort(part, held=study), study=study))
        for _, part in frame.groupby(hospital, sort=True)
    ]
    return read(np.sum(parts, axis=0).tolist(), study)


def test_absorbed_hospitals_equal_statsmodels_with_an_intercept_each() -> None:
    frame = tables.synthetic()
    hospital = where(len(frame), hospitals=5)
    frame["y"] += hospital * 1.5
    frame["age"] = (frame["age"] + 2.0 * hospital).clip(18, 100)
    pooled, count = absorbed(frame, hospital, held())
    ours = regression.fit(pooled, outcome="y", predictors=held().model(MODEL).predictors, absorbed=count)
    theirs = smf.ols(MODEL + " + C(hospital)", frame.assign(hospital=hospital)).fit(method="qr")
    assert (count, ours.df) == (5, int(theirs.df_resid))
    for row in ours.rows:
        name = row.term.replace("[", "[T.")
        assert difference([row.estimate, row.standard_error], [theirs.params[name], theirs.bse[name]]) <= 1e-10
        assert difference([row.t, row.p], [theirs.tvalues[name], theirs.pvalues[name]]) <= 1e-10
    assert "(intercept)" not in {row.term for row in ours.rows}


def test_what_leaves_does_not_change_when_a_whole_hospital_is_shifted() -> None:
    z = np.random.default_rng(1).integers(-(2**40), 2**40, (30, 3))
    assert within.within(z).tolist() == within.within(z + np.array([2**45, -7, 12345])).tolist()


def test_variable_that_varies_between_hospitals_only_is_named() -> None:
    frame = tables.synthetic()
    hospital = where(len(frame), hospitals=5)
    frame["age"] = 20.0 + hospital
    pooled, count = absorbed(frame, hospital, held())
    with pytest.raises(NotEstimable) as refused:
        regression.fit(pooled, outcome="y", predictors=["age", "x"], absorbed=count)
    assert (refused.value.diagnosis, refused.value.term) == ("constant", "age")


def test_sum_that_is_no_scatter_is_refused() -> None:
    frame = tables.synthetic(40)
    study: Any = held()
    vector = within.within(summarise.complete_rows(tables.cohort(frame, held=study), study=study)).tolist()
    read(vector, study)
    for at, value in ((0, -1), (0, 2**23), (1, 41), (2, -1), (2, 2**120), (3, 2**110)):
        with pytest.raises(ProtocolError):
            read([*vector[:at], value, *vector[at + 1 :]], study)
    with pytest.raises(ProtocolError, match="length"):
        read(vector[:-1], study)
    with pytest.raises(DataError, match="No patient"):
        read([0] * len(vector), study)
