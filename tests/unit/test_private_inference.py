"""Inference from a noisy Gram: with hardly any noise it is the exact side's; its error formulas are those of the noise."""

import json
import math
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigError, NotEstimable
from server.infer import adjusted_means, ancova, anova, correlation, regression, table_one
from server.infer import partial as partial_correlation
from server.infer.private import correlation as private_correlation
from server.infer.private import least_squares, resolved
from server.infer.private.family import read
from tests import noisy, tables
from tests.tables import FACTORS, NUMBERS, difference

FORMULA = "y ~ grade * sex + age"
STUDY = tables.study(
    NUMBERS,
    factors=FACTORS,
    correlation=["y", "age", "x"],
    regression={"outcome": "y", "predictors": ["age", "x"]},
    models=[FORMULA],
    groups=[{"outcome": "y", "factor": "grade"}],
    ancova=[{"outcome": "y", "factor": "grade", "covariates": ["age", "x"]}],
    descriptive=["age", "grade"],
)
FRAME = tables.synthetic()
HARDLY = 1e-7  # sigma: some 1e-6 of the smallest figures


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return read(noisy.released(FRAME, held=STUDY, sigma=HARDLY), study=STUDY)


@pytest.fixture(scope="module")
def pooled() -> Any:
    return tables.pooled(FRAME, held=STUDY)


def close(ours: Any, theirs: Any, keys: tuple[str, ...]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for key in keys:
            assert difference(one[key], other[key]) < 1e-4, key


def test_without_noise_the_regression_is_the_exact_one(found: dict[str, Any], pooled: Any) -> None:
    exact = regression.fit(pooled, outcome="y", predictors=["age", "x"]).plain()
    close(found["ols"]["rows"], exact["rows"], ("estimate", "standard_error", "ci_low", "ci_high", "t", "p"))
    close(found["ols"]["rows"][1:], exact["rows"][1:], ("standardised",))
    assert found["ols"]["n"] == exact["n"]
    assert difference(found["ols"]["sigma"], exact["sigma"]) < 1e-5
    assert difference(found["ols"]["r_squared"], exact["r_squared"]) < 1e-5
    assert all(1 <= row["width_ratio"] < 1.0001 for row in found["ols"]["rows"])


def test_without_noise_a_model_with_factors_and_interactions_is_the_exact_one(found: dict[str, Any], pooled: Any) -> None:
    exact = regression.fit_model(pooled, model=STUDY.model(FORMULA)).plain()
    close(found["models"][0]["fit"]["rows"], exact["rows"], ("estimate", "standard_error", "ci_low", "ci_high", "p"))


@pytest.mark.parametrize("kind", ["I", "II", "III"])
def test_without_noise_the_f_of_every_type_is_the_exact_one(found: dict[str, Any], pooled: Any, kind: anova.Kind) -> None:
    exact = anova.analyse(pooled, model=STUDY.model(FORMULA), kind=kind).plain()
    ours = found["models"][0]["anova"][kind]
    close(ours["rows"], exact["rows"], ("f", "df", "omega_squared"))
    for one, other in zip(ours["rows"], exact["rows"], strict=True):
        assert one["p"] == pytest.approx(other["p"], abs=0.03)


def test_without_noise_correlations_are_the_exact_ones(found: dict[str, Any], pooled: Any) -> None:
    names = ["y", "age", "x"]
    plain, held = correlation.correlate(pooled, names=names), partial_correlation.correlate(pooled, names=names)
    for ours, theirs in ((found["correlation"], plain), (found["partial_correlation"], held)):
        for key, matrix in (("r", theirs.r), ("ci_low", theirs.ci_low), ("ci_high", theirs.ci_high)):
            np.testing.assert_allclose(np.array(ours[key], float), matrix, atol=1e-5)
        np.testing.assert_allclose(np.array(ours["p"], float), np.where(np.eye(3) > 0, np.nan, theirs.p_values), atol=2e-3)
        assert ours["p_bh"][0][1] >= ours["p"][0][1]


def test_without_noise_adjusted_means_of_every_term_of_factors_are_the_exact_ones(found: dict[str, Any], pooled: Any) -> None:
    model = STUDY.model(FORMULA)
    ours = {one["term"]: one for one in found["models"][0]["means"]}
    wanted = adjusted_means.terms_of(model)
    assert list(ours) == [term.name for term in wanted]
    for term in wanted:
        exact = adjusted_means.of_term(pooled, model=model, term=term).plain()
        assert [row["level"] for row in ours[term.name]["means"]] == [row["level"] for row in exact["means"]]
        close(ours[term.name]["means"], exact["means"], ("mean", "standard_error", "ci_low", "ci_high"))
        close(ours[term.name]["pairs"], exact["contrasts"], ("difference", "standard_error", "t", "p", "p_holm"))
        for one, other in zip(ours[term.name]["pairs"], exact["contrasts"], strict=True):
            assert one["p_tukey"] == pytest.approx(other["p_tukey"], abs=0.04)


def test_without_noise_table_one_is_the_exact_one(found: dict[str, Any], pooled: Any) -> None:
    exact = table_one.describe(pooled, study=STUDY, names=STUDY.statistics.descriptive).plain()
    close(found["table_one"]["numbers"], exact["numbers"], ("mean", "sd", "ci_low", "ci_high"))
    close(found["table_one"]["shares"], exact["shares"], ("count", "share", "ci_low", "ci_high"))


def test_without_noise_groups_and_adjusted_means_are_the_exact_ones(found: dict[str, Any], pooled: Any) -> None:
    exact = ancova.analyse(pooled, study=STUDY, wanted=STUDY.statistics.ancova[0]).plain()
    ours = found["ancova"][0]
    close(ours["means"], exact["means"], ("mean", "standard_error", "ci_low", "ci_high"))
    close(ours["pairs"], exact["contrasts"], ("difference", "standard_error", "t", "p", "p_holm"))
    close(ours["rows"], [*exact["table"]["rows"], exact["slopes"]], ("f", "df"))
    for one, other in zip(ours["pairs"], exact["contrasts"], strict=True):
        assert one["p_tukey"] == pytest.approx(other["p_tukey"], abs=0.03)
    by_level = FRAME.groupby("grade")["y"].mean()
    assert [row["mean"] for row in found["groups"][0]["means"]] == pytest.approx(by_level.tolist())
    one_way = anova.analyse(pooled, model=STUDY.model("y ~ grade"), kind="I").rows[0]
    assert found["groups"][0]["rows"][0]["f"] == pytest.approx(one_way.f)


def test_the_covariance_of_the_noise_is_that_of_the_normal_equations_intercept_included() -> None:
    random, beta, sigma = np.random.default_rng(0), np.array([0.7, -0.4, 0.2, 1.1]), 3.0
    drawn = np.array([noisy.noise(5, sigma=sigma, random=random) for _ in range(40_000)])
    u = drawn[:, :4, 4] - drawn[:, :4, :4] @ beta
    inverse = np.linalg.inv(np.diag([9.0, 2.0, 3.0, 4.0]) + 0.5)
    stated = least_squares.covariance(beta, inverse=inverse, variance=0.0, sigma=sigma)
    seen = inverse @ np.cov(u.T) @ inverse
    np.testing.assert_allclose(seen, stated, atol=0.03 * np.abs(stated).max())


@pytest.mark.parametrize("held", [False, True])
def test_the_noise_of_a_correlation_is_as_wide_as_stated(held: bool) -> None:
    random, names, sigma = np.random.default_rng(1), ("a", "b", "c", "d"), 4.0
    z = random.normal(size=(20_000, 4)) @ np.linalg.cholesky(0.6 * np.ones((4, 4)) + 0.4 * np.eye(4)).T * 0.3 + 0.4
    exact = noisy.gram(z, clip_norm=100.0)
    ask = private_correlation.partial if held else private_correlation.correlate
    drawn = []
    for _ in range(1000):
        matrix = exact + noisy.noise(5, sigma=sigma, random=random)
        drawn.append(ask(noisy.moments(matrix, names=names, sigma=sigma), names=names)["r"][0][1])
    one = ask(noisy.moments(exact.copy(), names=names, sigma=sigma), names=names)
    bare = ask(noisy.moments(exact.copy(), names=names, sigma=1e-9), names=names)
    reach = {key: [abs(part["r"][0][1] - part[key][0][1]) for part in (one, bare)] for key in ("ci_low", "ci_high")}
    stated = [math.sqrt(wide**2 - narrow**2) / 1.959964 for wide, narrow in reach.values()]
    assert stated == pytest.approx([np.std(drawn)] * 2, rel=0.1)


def test_units_change_nothing_but_the_units() -> None:
    held = noisy.released(FRAME, held=STUDY, sigma=0.5)
    names = held.columns
    other = noisy.moments(
        held.matrix.copy(), names=names, sigma=0.5, centre=(0.0,) * len(names), half=tuple(8 * h for h in held.half)
    )
    for name in ("age", "x"):
        first = least_squares.fit(held, outcome="y", predictors=["age", "x"]).form({name: 1.0})
        second = least_squares.fit(other, outcome="y", predictors=["age", "x"]).form({name: 1.0})
        assert (first.value, first.p, first.width_ratio) == pytest.approx((second.value, second.p, second.width_ratio))


def test_noise_widens_every_interval_and_says_by_how_much() -> None:
    clear, dim = (read(noisy.released(FRAME, held=STUDY, sigma=sigma), study=STUDY) for sigma in (1e-6, 0.3))
    for one, other in zip(clear["ols"]["rows"], dim["ols"]["rows"], strict=True):
        assert other["width_ratio"] > one["width_ratio"] >= 1
    assert dim["correlation"]["width_ratio"][1][2] > clear["correlation"]["width_ratio"][1][2] >= 1


def test_equal_sums_give_equal_results_and_others_do_not() -> None:
    first, again, other = (read(noisy.released(FRAME, held=STUDY, sigma=0.3, seed=seed), study=STUDY) for seed in (1, 1, 2))
    assert json.dumps(first, sort_keys=True) == json.dumps(again, sort_keys=True)
    assert first["models"][0]["anova"]["II"]["rows"] != other["models"][0]["anova"]["II"]["rows"]


def test_every_row_says_mechanism_and_epsilon(found: dict[str, Any]) -> None:
    rows = []

    def walk(part: Any) -> None:
        for item in part.values() if isinstance(part, dict) else part:
            if isinstance(item, list) and item and isinstance(item[0], dict):
                rows.extend(item)
            if isinstance(item, dict | list):
                walk(item)

    walk(found)
    assert len(rows) > 40
    assert all(row["mechanism"] == "gaussian" and row["epsilon"] == "1.5" for row in rows)
    for key in ("noise", "correlation", "ols", "table_one", "partial_correlation", "components"):
        assert (found[key]["mechanism"], found[key]["epsilon"]) == ("gaussian", "1.5")
    json.dumps(found, allow_nan=False)


def test_where_everything_is_noise_there_is_no_number() -> None:
    said = read(noisy.released(FRAME, held=STUDY, sigma=5000.0), study=STUDY)
    assert said["patients"] is None
    parts = [said[key] for key in ("correlation", "ols", "table_one", "partial_correlation")]
    parts += [said["models"][0]["fit"], *said["models"][0]["anova"].values(), *said["groups"], *said["ancova"]]
    for part in parts:
        assert part["diagnosis"] == resolved.DIAGNOSIS
        assert not {"rows", "r", "numbers", "means"} & set(part)


def test_a_column_whose_variance_is_noise_is_named_and_has_no_correlation() -> None:
    random = np.random.default_rng(2)
    z = np.column_stack([random.normal(size=(2000, 2)) * 0.3, random.normal(size=2000) * 0.01])
    matrix = noisy.gram(z, clip_norm=9.0) + noisy.noise(4, sigma=3.0, random=random)
    said = private_correlation.correlate(noisy.moments(matrix, names=("a", "b", "c"), sigma=3.0), names=("a", "b", "c"))
    assert said["too_noisy"] == ["c"]
    assert [line[2] for line in said["r"]] == [None] * 3
    assert said["r"][0][1] is not None


@pytest.mark.parametrize("what", ["constant", "aliased"])
def test_a_column_that_others_give_is_too_noisy_and_named(what: str) -> None:
    random = np.random.default_rng(3)
    z = random.normal(size=(3000, 3)) * 0.3
    z[:, 1] = 0.2 if what == "constant" else -z[:, 0]
    matrix = noisy.gram(z, clip_norm=9.0) + noisy.noise(4, sigma=2.0, random=random)
    held = noisy.moments(matrix, names=("a", "b", "y"), sigma=2.0)
    with pytest.raises(NotEstimable) as error:
        least_squares.fit(held, outcome="y", predictors=["a", "b"])
    assert error.value.diagnosis == resolved.DIAGNOSIS
    assert error.value.term in {"a", "b"}
    assert "plan" in error.value.action


def test_a_correlation_beyond_one_is_cut_and_its_interval_stays_inside() -> None:
    matrix = np.diag([1000.0, 40.0, 40.0])
    matrix[1, 2] = matrix[2, 1] = 41.0
    said = private_correlation.correlate(noisy.moments(matrix, names=("a", "b"), sigma=3.0), names=("a", "b"))
    assert said["r"][0][1] == said["ci_high"][0][1] == 1.0
    assert 0.5 < said["ci_low"][0][1] < 0.95


@pytest.mark.parametrize("names", [("a", "a"), ("a", "z"), ("y", "a"), ()])
def test_names_unknown_repeated_or_none_are_refused(names: tuple[str, ...]) -> None:
    held = noisy.moments(np.diag([900.0, 90.0, 90.0]), names=("a", "y"), sigma=1.0)
    with pytest.raises(ConfigError):
        least_squares.fit(held, outcome="y", predictors=names)


def test_a_gram_of_another_study_is_refused() -> None:
    with pytest.raises(ConfigError, match="not of this study"):
        read(noisy.moments(np.eye(3), names=("a", "b"), sigma=1.0), study=STUDY)
