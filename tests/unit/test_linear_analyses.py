"""Robust errors, absorbed hospitals and meta-analysis by sums equal statsmodels on the pooled rows; the hopeless are named."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.stattools import jarque_bera

from client.kernels.answer import answer
from client.kernels.rows import Rows, Seat
from common import estimates, query
from common.errors import ConfigError, DataError, NotEstimable, ProtocolError
from server.infer import absorbed, meta_analysis, robust
from server.infer.robust import Spec
from tests.pooling import column, columns, drive, rows_of
from tests.tables import difference

HOSPITALS = 8


def table(n: int = 400, seed: int = 3, *, differ: float = 2.0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Patients of eight uneven hospitals that differ in level, spread and slopes: that of dose by `differ`."""
    rng = np.random.default_rng(seed)
    share = np.arange(4, 4 + HOSPITALS) / np.arange(4, 4 + HOSPITALS).sum()
    of = rng.choice(HOSPITALS, size=n, p=share)
    age, dose = rng.normal(60, 9, n), rng.lognormal(0, 0.5, n)
    slope = 0.1 + 0.05 * rng.normal(size=HOSPITALS)
    y = 10 + slope[of] * age + 1.5 * dose + 2.0 * rng.normal(size=HOSPITALS)[of] + rng.normal(size=n) * (0.5 + dose)
    y = y + differ * rng.normal(size=HOSPITALS)[of] * dose
    return {"y": y, "age": age, "dose": dose}, of


def specified(rows: Rows) -> Spec:
    return Spec(outcome=column(rows, rows.names[0]), predictors=columns(rows, *rows.names[1:]))


def parted(rows: Rows, of: np.ndarray) -> list[Rows]:
    return [rows.part(of == h) for h in np.unique(of)]


def pooled(held: dict[str, np.ndarray]) -> Any:
    y, *x = held.values()
    return sm.OLS(y, sm.add_constant(np.column_stack(x))).fit(method="qr")


def same(ours: Sequence[Any], theirs: Any, rel: float = 1e-10) -> None:
    assert difference([row.estimate for row in ours], theirs.params) <= rel
    assert difference([row.standard_error for row in ours], theirs.bse) <= rel
    assert difference([row.t for row in ours], theirs.tvalues) <= rel
    assert difference([row.p for row in ours], theirs.pvalues) <= rel
    assert difference([[row.ci_low, row.ci_high] for row in ours], theirs.conf_int()) <= rel


def test_robust_errors_by_sums_equal_pooled_statsmodels() -> None:
    held, of = table()
    rows = rows_of(held)
    ours, plain = drive(robust.fit(specified(rows)), parted(rows, of)), pooled(held)
    same(ours.rows, plain.get_robustcov_results("HC3", use_t=True))
    same(ours.clustered, plain.get_robustcov_results("cluster", groups=of, use_t=True))
    assert difference([ours.breusch_pagan, ours.breusch_pagan_p], het_breuschpagan(plain.resid, plain.model.exog)[:2]) <= 1e-10
    told = [ours.jarque_bera, ours.jarque_bera_p, ours.skewness, ours.kurtosis]
    assert difference(told, jarque_bera(plain.resid)) <= 1e-9
    scale = held["age"].std() / held["y"].std()
    assert difference(ours.rows[1].standardised, plain.params[1] * scale) <= 1e-10
    assert (ours.n, ours.df, ours.hospitals) == (400, 397, HOSPITALS)
    assert (ours.rows[0].standardised, ours.rows[0].vif) == (None, None)


def test_robust_errors_are_the_same_bits_for_any_partition() -> None:
    held, of = table()
    rows = rows_of(held)
    made = [drive(robust.fit(specified(rows)), parted(rows, of % k)).rows for k in (1, 3, 8)]
    assert made[0] == made[1] == made[2]


def test_few_hospitals_keep_their_scores() -> None:
    held, of = table()
    rows = rows_of(held)
    assert drive(robust.fit(specified(rows)), parted(rows, of % 3)).clustered == ()  # three coefficients
    told: list[query.Query] = []
    running = robust.fit(specified(rows))
    first = next(running)
    told.append(running.send(answer(rows, query=first).values.tolist()))
    for seat, sent in ((Seat(at=0, of=9, honest=2, shows=True), False), (Seat(at=0, of=9, honest=3, shows=False), True)):
        vector = answer(rows.part(of == 0), query=told[0], seat=seat).values
        assert bool(np.any(vector[-6:])) is sent


def test_absorbed_hospitals_by_sums_equal_an_indicator_each() -> None:
    held, of = table()
    rows = rows_of(held)
    ours = drive(absorbed.fit(specified(rows)), parted(rows, of))
    dummies = np.eye(HOSPITALS)[of]
    theirs = sm.OLS(held["y"], np.column_stack([held["age"], held["dose"], dummies])).fit(method="qr")
    for at, row in enumerate(ours.rows):
        assert difference([row.estimate, row.standard_error], [theirs.params[at], theirs.bse[at]]) <= 1e-10
        assert difference([row.t, row.p], [theirs.tvalues[at], theirs.pvalues[at]]) <= 1e-10
        assert difference([row.ci_low, row.ci_high], theirs.conf_int()[at]) <= 1e-10
        assert row.eta_low < row.partial_eta_squared < row.eta_high
    assert (ours.n, ours.df, ours.hospitals) == (400, int(theirs.df_resid), HOSPITALS)
    assert difference(ours.sigma, np.sqrt(theirs.mse_resid)) <= 1e-10


def test_a_shift_of_a_hospital_changes_no_bit_of_what_it_adds_to_absorbed_fits() -> None:
    held, of = table()
    rows = rows_of({name: np.round(values, 3) * 2**-4 for name, values in held.items()}, margin=1.0)
    asked = next(absorbed.fit(specified(rows)))
    part = rows.part(of == 3)
    moved = Rows(names=part.names, values=part.values + 2**-6, lower=part.lower, upper=part.upper)
    back = Rows(names=part.names, values=moved.values - 2**-6, lower=part.lower, upper=part.upper)
    assert answer(moved, query=asked).values.tolist() == answer(back, query=asked).values.tolist()


def own(held: dict[str, np.ndarray], of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each hospital's slopes and their variances."""
    fits = [pooled({name: values[of == h] for name, values in held.items()}) for h in np.unique(of)]
    return np.array([one.params[1:] for one in fits]), np.array([one.bse[1:] ** 2 for one in fits])


def test_meta_analysis_by_sums_equals_statsmodels() -> None:
    held, of = table()
    rows = rows_of(held)
    ours = drive(meta_analysis.fit(specified(rows), by_hospital=False), parted(rows, of))
    effects, variances = own(held, of)
    for at, name in enumerate(("age", "dose")):
        theirs = combine_effects(effects[:, at], variances[:, at], method_re="dl", use_t=False)
        (spread,) = [one for one in ours.heterogeneity if one.term == name]
        equal, wald, knapp = [row for row in ours.rows if row.term == name]
        assert theirs.q > HOSPITALS - 1  # below it statsmodels' tau squared is negative
        assert difference([spread.q, spread.i_squared, spread.tau_squared], [theirs.q, theirs.i2, theirs.tau2]) <= 1e-10
        frame = theirs.summary_frame()
        for row, label in ((equal, "fixed effect"), (wald, "random effect")):
            wanted = frame.loc[label, ["eff", "sd_eff", "ci_low", "ci_upp"]]
            assert difference([row.estimate, row.standard_error, row.ci_low, row.ci_high], wanted) <= 1e-10
        assert difference([knapp.estimate, knapp.standard_error], [theirs.mean_effect_re, theirs.sd_eff_w_re_hksj]) <= 1e-10
        assert difference([knapp.ci_low, knapp.ci_high], theirs.conf_int(use_t=True)[3]) <= 1e-10
    assert (ours.n, ours.hospitals, ours.by_hospital) == (400, HOSPITALS, ())


def test_hospitals_that_agree_have_no_negative_tau_squared() -> None:
    held, of = table(differ=0.0)
    rows = rows_of(held)
    ours = drive(meta_analysis.fit(specified(rows), by_hospital=False), parted(rows, of))
    low = [one for one in ours.heterogeneity if one.q < one.df]
    assert low
    assert [(one.tau_squared, one.i_squared) for one in low] == [(0.0, 0.0)] * len(low)


def test_only_hospitals_that_allow_it_show_their_estimates() -> None:
    held, of = table()
    rows = rows_of(held)
    ours = drive(meta_analysis.fit(specified(rows), by_hospital=True), parted(rows, of), shows=(1, 4))
    effects, variances = own(held, of)
    assert [(row.term, row.place) for row in ours.by_hospital] == [("age", 1), ("age", 4), ("dose", 1), ("dose", 4)]
    for row in ours.by_hospital:
        at = ("age", "dose").index(row.term)
        assert difference(row.estimate, effects[row.place, at]) <= 1e-10
        assert difference(row.standard_error, np.sqrt(variances[row.place, at])) <= 1e-10
        assert row.n == int((of == row.place).sum())
    nobody = drive(meta_analysis.fit(specified(rows), by_hospital=True), parted(rows, of))
    assert nobody.by_hospital == ()
    assert nobody.rows == ours.rows


def test_a_hospital_without_a_fit_of_its_own_adds_its_patients_and_zeros() -> None:
    held, of = table()
    held["dose"][of == 2] = 1.0  # constant there
    rows = rows_of(held)
    asked = next(meta_analysis.fit(specified(rows), by_hospital=False))
    sent = answer(rows.part(of == 2), query=asked).values.tolist()
    assert sent == [int((of == 2).sum()), *[0] * 9]
    ours = drive(meta_analysis.fit(specified(rows), by_hospital=True), parted(rows, of), shows=range(HOSPITALS))
    assert (ours.n, ours.hospitals) == (400, HOSPITALS - 1)
    assert 2 not in {row.place for row in ours.by_hospital}


@pytest.mark.parametrize("kind", ["aliased", "perfect", "few rows"])
def test_no_answer_is_no_estimate(kind: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 2))
    y = rng.normal(size=30)
    if kind == "aliased":
        x[:, 1] = 3 * x[:, 0] + 1
    if kind == "perfect":
        y = x @ [1.0, 2.0] + 4
    rows = rows_of({"y": y, "a": x[:, 0], "b": x[:, 1]})
    rows = rows.part(np.arange(30) < 3) if kind == "few rows" else rows
    sent = answer(rows, query=next(meta_analysis.fit(specified(rows), by_hospital=False))).values
    assert sent.tolist() == [len(rows.values), *[0] * 9]


def test_hopeless_models_are_named() -> None:
    held, of = table()
    age = held["age"]
    cases = {
        "aliased": {**held, "dose": 2 * age},
        "constant": {**held, "dose": np.ones(400)},
        "perfect fit": {**held, "y": 3 * age},
    }
    for diagnosis, changed in cases.items():
        rows = rows_of(changed)
        for analysis in (robust.fit(specified(rows)), absorbed.fit(specified(rows))):
            with pytest.raises(NotEstimable) as caught:
                drive(analysis, parted(rows, of))
            assert caught.value.diagnosis == diagnosis
        with pytest.raises(NotEstimable) as caught:
            drive(meta_analysis.fit(specified(rows), by_hospital=False), parted(rows, of))
        assert caught.value.diagnosis == "too few hospitals"
    few = rows_of(held).part(np.arange(400) < 3)
    for analysis in (robust.fit(specified(few)), absorbed.fit(specified(few))):
        with pytest.raises(NotEstimable) as caught:
            drive(analysis, [few])
        assert caught.value.diagnosis == "too few rows"
    between = rows_of({**held, "dose": of * 1.0})  # it differs between hospitals only
    with pytest.raises(NotEstimable) as caught:
        drive(absorbed.fit(specified(between)), parted(between, of))
    assert (caught.value.diagnosis, caught.value.term) == ("constant", "dose")
    with pytest.raises(ConfigError):
        Spec(outcome=column(few, "y"), predictors=columns(few, "y"))
    with pytest.raises(DataError):
        drive(robust.fit(specified(few)), [few.part(np.zeros(3, dtype=bool))])


def test_sums_that_hospitals_estimates_cannot_have_are_refused() -> None:
    own_ = [estimates.Estimate(value=1.0, weight=4.0)]
    good = estimates.pack(own_, n=9, p=1)
    assert estimates.unpack(good, p=1)[1][0].weight == 4
    for bad in (good[:-1], [9, 65, *good[2:]], [0, 1, *good[2:]], []):
        with pytest.raises(ProtocolError):
            estimates.unpack(bad, p=1)
    shown = estimates.pack_shown(own_, at=3, n=9, p=1)
    assert [(one.at, one.n, one.estimates) for one in estimates.unpack_shown(shown, p=1)] == [(3, 9, tuple(own_))]
    for at, value in ((12, 2), (12, 0), (13, 0), (15, -1), (15, 0), (0, 7)):
        with pytest.raises(ProtocolError):
            estimates.unpack_shown([*shown[:at], value, *shown[at + 1 :]], p=1)
    with pytest.raises(DataError, match="fit the ring"):
        estimates.pack([estimates.Estimate(value=1.0, weight=1e12)], n=9, p=1)


@pytest.mark.parametrize("change", [{"slope": [2.0**59]}, {"scale": [1e-300]}, {"basis": [20.0]}, {"outcome": [4.0, 1e-15]}])
def test_a_fit_far_from_the_rows_is_refused_before_anything_wraps(change: dict[str, list[float]]) -> None:
    held, _ = table()
    rows = rows_of({"y": held["y"], "age": held["age"]})
    fit = {"rows": [400.0], "mean": [60.0], "scale": [9.0], "basis": [0.05], "slope": [0.9], "outcome": [20.0, 3.0]}
    assert any(answer(rows, query=query.ask("residuals", responses=["y"], predictors=["age"], numbers=fit)).values)
    asked = query.ask("residuals", responses=["y"], predictors=["age"], numbers=fit | change)
    with pytest.raises(DataError, match="alone determines"):
        answer(rows, query=asked)
