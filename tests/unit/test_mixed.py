"""A random hospital intercept from sums equals the restricted maximum of the pooled likelihood."""

import mpmath as mp
import numpy as np
import pytest
import statsmodels.api as sm

from client.kernels.rows import Rows
from common.errors import ConfigError, HospitalMissing, NotEstimable
from server.infer import mixed
from tests.pooling import column, columns, drive, rows_of


def hospitals(spread: float = 2.0, places: int = 6) -> tuple[Rows, np.ndarray]:
    rng = np.random.default_rng(12)
    of = rng.choice(places, size=150, p=np.arange(1, places + 1) / np.arange(1, places + 1).sum())
    age, dose = rng.normal(60, 9, 150), rng.lognormal(0, 0.5, 150)
    y = 10 + 0.1 * age + 1.5 * dose + spread * rng.normal(size=places)[of] + rng.normal(size=150)
    return rows_of({"y": y, "age": age, "dose": dose}), of


def run(rows: Rows, of: np.ndarray) -> mixed.Mixed:
    spec = mixed.Spec(outcome=column(rows, "y"), predictors=columns(rows, "age", "dose"))
    return drive(mixed.fit(spec), [rows.part(of == h) for h in np.unique(of)])


def truth(rows: Rows, of: np.ndarray, guess: float) -> tuple[float, list[float], list[float], float, float, list[float]]:
    """Ratio, coefficients, errors, residual variance, log-likelihood, ends of the share; V inverted hospital by hospital."""
    with mp.workdps(40):
        table = [[mp.mpf(1), mp.mpf(a), mp.mpf(d), mp.mpf(y)] for y, a, d in rows.values.tolist()]
        groups = [[table[i] for i in np.flatnonzero(of == h)] for h in np.unique(of)]
        inner, sums = [], []
        for group in groups:
            cols = list(zip(*group, strict=True))
            inner.append(mp.matrix([[mp.fdot(a, b) for b in cols] for a in cols]))
            sums.append(mp.matrix([mp.fsum(c) for c in cols]))

        def profile(ratio: mp.mpf) -> tuple:
            m, logs = mp.matrix(4, 4), mp.mpf(0)
            for group, w, s in zip(groups, inner, sums, strict=True):
                n = len(group)
                m += w - s * s.T * (ratio / (1 + n * ratio))
                logs += mp.log(1 + n * ratio)
            a, c = m[:3, :3], m[:3, 3]
            inverse = mp.inverse(a)
            b = inverse * c
            df = len(table) - 3
            s2 = (m[3, 3] - (c.T * b)[0]) / df
            like = -(df * mp.log(2 * mp.pi * s2) + logs + mp.log(mp.det(a)) + df) / 2
            return like, b, [mp.sqrt(s2 * inverse[i, i]) for i in range(3)], s2

        ratio = mp.findroot(lambda r: mp.diff(lambda v: profile(v)[0], r), mp.mpf(guess), tol=1e-30)
        like, b, errors, s2 = profile(ratio)
        fall = mp.erfinv(mp.mpf("0.95")) ** 2  # half of the chi-square's quantile
        ends = [
            mp.findroot(lambda r: like - profile(r)[0] - fall, (ratio * near, ratio * far), solver="anderson", tol=1e-30)
            for near, far in ((0.9, 0.05), (2, 40))
        ]
        shares = [float(end / (1 + end)) for end in ends]
        return float(ratio), [float(v) for v in b], [float(v) for v in errors], float(s2), float(like), shares


def test_random_intercept_equals_forty_digit_arithmetic() -> None:
    rows, of = hospitals()
    result = run(rows, of)
    ratio, b, errors, s2, like, ends = truth(rows, of, result.variance_hospitals / result.variance_patients * 1.01)
    assert np.isclose(result.variance_hospitals / result.variance_patients, ratio, rtol=1e-10)
    assert np.allclose([r.estimate for r in result.rows], b, rtol=1e-10)
    assert np.allclose([r.standard_error for r in result.rows], errors, rtol=1e-10)
    assert np.isclose(result.variance_patients, s2, rtol=1e-10)
    assert np.isclose(result.log_likelihood, like, rtol=1e-10)
    assert np.allclose([result.icc_low, result.icc_high], ends, rtol=1e-9)
    assert result.icc_low < result.icc < result.icc_high
    assert result.hospitals == 6


def test_random_intercept_agrees_with_statsmodels() -> None:
    rows, of = hospitals()
    result = run(rows, of)
    oracle = sm.MixedLM(rows.values[:, 0], sm.add_constant(rows.values[:, 1:]), groups=of).fit(reml=True)
    assert np.allclose([r.estimate for r in result.rows], oracle.fe_params, rtol=1e-5)
    assert np.isclose(result.variance_hospitals, float(oracle.cov_re[0, 0]), rtol=1e-3)
    assert np.isclose(result.log_likelihood, oracle.llf, rtol=1e-8)


def test_no_spread_between_hospitals_is_the_boundary_and_ordinary_least_squares() -> None:
    rows, of = hospitals(spread=0.0)
    rows = rows_of({name: rows.values[:, i] for i, name in enumerate(rows.names)})
    centred = rows.values[:, 0].copy()
    for h in np.unique(of):
        centred[of == h] -= centred[of == h].mean() - 20
    rows = rows_of({"y": centred, "age": rows.values[:, 1], "dose": rows.values[:, 2]})
    result = run(rows, of)
    oracle = sm.OLS(centred, sm.add_constant(rows.values[:, 1:])).fit()
    assert result.boundary
    assert result.variance_hospitals == 0.0
    assert (result.icc, result.icc_low) == (0.0, 0.0)
    assert 0 < result.icc_high < 0.2
    assert np.allclose([r.estimate for r in result.rows], oracle.params, rtol=1e-10)
    assert np.allclose([r.standard_error for r in result.rows], oracle.bse, rtol=1e-10)


@pytest.mark.parametrize("error", [HospitalMissing, NotEstimable])
def test_an_interval_whose_sums_give_out_leaves_the_estimate_and_says_why(error) -> None:
    rows, of = hospitals()
    spec = mixed.Spec(outcome=column(rows, "y"), predictors=columns(rows, "age", "dose"))
    parts, counted = [rows.part(of == h) for h in np.unique(of)], []
    whole = drive(mixed.fit(spec), parts, counted=counted)

    def gives_out(analysis):
        words, sums = {"term": "y"} if error is NotEstimable else {}, None
        for at in range(len(counted)):
            try:
                gone = at == len(counted) - 3
                asked = analysis.throw(error("no more", action="None.", **words)) if gone else analysis.send(sums)
            except StopIteration as end:
                return end.value
            sums = yield asked
        raise AssertionError

    got = drive(gives_out(mixed.fit(spec)), parts)
    assert got.icc == whole.icc
    assert (got.icc_low, got.icc_high) == (None, None)
    assert got.icc_diagnosis == (mixed.MISSING if error is HospitalMissing else "no more")


def test_hopeless_models_are_named() -> None:
    rows, of = hospitals()
    with pytest.raises(NotEstimable) as caught:
        run(rows, np.minimum(of, 1))
    assert caught.value.diagnosis == "too few hospitals"
    age = rows.values[:, 1]
    for y, dose, diagnosis in ((age * 2 + 1, rows.values[:, 2], "perfect fit"), (rows.values[:, 0], age * 3, "aliased")):
        with pytest.raises(NotEstimable) as caught:
            run(rows_of({"y": y, "age": age, "dose": dose}), of)
        assert caught.value.diagnosis == diagnosis
    with pytest.raises(ConfigError):
        mixed.Spec(outcome=column(rows, "age"), predictors=columns(rows, "age"))
