"""Welch, Games and Howell, Tukey and components from a noisy Gram: without noise the exact ones; noise has its stated size."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigError, NotEstimable
from server.infer import anova, principal
from server.infer import groups as exact_groups
from server.infer import welch as exact_welch
from server.infer.private import components, group_sums, least_squares, one_way, resolved, simultaneous, welch
from tests import noisy, tables
from tests.tables import difference
from tests.unit.test_private_inference import FRAME, HARDLY, STUDY, close

LEVELS = STUDY.variable("grade").levels
NAMES = ("a", "b", "c")
TURNED = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])  # eigenvalues 1.9, 1.9 and -0.8


def sums(sigma: float, *, seed: int = 0, outcome: str = "y") -> group_sums.GroupSums:
    held = noisy.released(FRAME, held=STUDY, sigma=sigma, seed=seed)
    return group_sums.read(held, outcome=outcome, factor="grade", levels=LEVELS)


@pytest.fixture(scope="module")
def exact() -> dict[str, Any]:
    pooled = tables.pooled(FRAME, held=STUDY)
    made = exact_groups.groups(pooled, outcome="y", factor="grade", levels=LEVELS)
    return exact_welch.compare(made, outcome="y", factor="grade").plain()


def test_without_noise_welch_and_games_howell_are_the_exact_ones(exact: dict[str, Any]) -> None:
    ours = welch.compare(sums(HARDLY))
    (row,) = ours["rows"]
    assert difference(row["f"], exact["f"]) < 1e-5
    assert difference(row["omega_squared"], exact["omega_squared"]) < 1e-5
    assert row["df"] == exact["df_between"]
    assert row["p"] == pytest.approx(exact["p"], abs=0.03)
    close(ours["means"], exact["means"], ("n", "mean", "sd", "ci_low", "ci_high"))
    close(ours["pairs"], exact["games_howell"], ("difference", "standard_error", "hedges_g", "hedges_g_low", "hedges_g_high"))
    for one, other in zip(ours["pairs"], exact["games_howell"], strict=True):
        assert one["p_games_howell"] == pytest.approx(other["p"], abs=0.03)
        assert one["ci_low"] == pytest.approx(other["ci_low"], abs=0.06 * other["standard_error"] * 3)


def test_without_noise_tukeys_intervals_are_those_of_the_studentised_range(exact: dict[str, Any]) -> None:
    held = noisy.released(FRAME, held=STUDY, sigma=HARDLY)
    columns = [f"grade[{level}]" for level in LEVELS[1:]]
    fitted = least_squares.fit(held, outcome="y", predictors=columns)
    forms = np.array([[0, 1, 0], [0, 0, 1], [0, -1, 1]], float)
    (drawn,) = simultaneous.largest(held, fitted=fitted, families=[forms], draws=20_000)
    pairs = exact["tukey"]
    p, critical = simultaneous.adjusted([one["q"] / np.sqrt(2) for one in pairs], drawn=drawn)
    assert p == pytest.approx([one["p"] for one in pairs], abs=0.01)
    reach = [(one["ci_high"] - one["difference"]) / one["standard_error"] for one in pairs]
    assert [critical] * 3 == pytest.approx(reach, rel=0.02)


def test_without_noise_one_variance_for_all_groups_is_tukeys_and_fishers(exact: dict[str, Any]) -> None:
    ours = one_way.compare(sums(HARDLY))
    close(ours["pairs"], exact["tukey"], ("difference", "standard_error"))
    for one, other in zip(ours["pairs"], exact["tukey"], strict=True):
        assert one["p_tukey"] == pytest.approx(other["p"], abs=0.03)
        assert one["tukey_high"] == pytest.approx(other["ci_high"], abs=0.2 * other["standard_error"])
        assert one["ci_low"] > one["tukey_low"]
        assert 1 <= one["width_ratio"] < 1.0001
    fisher = anova.analyse(tables.pooled(FRAME, held=STUDY), model=STUDY.model("y ~ grade"), kind="I").plain()
    close(ours["rows"], fisher["rows"], ("f", "df", "omega_squared"))
    assert (ours["n"], ours["df"]) == (FRAME["y"].notna().sum(), pytest.approx(fisher["df"]))


def test_sums_of_groups_have_less_noise_than_the_equations_of_their_indicators() -> None:
    held, columns = noisy.released(FRAME, held=STUDY, sigma=0.3), [f"grade[{level}]" for level in LEVELS[1:]]
    fitted = least_squares.fit(held, outcome="y", predictors=columns)
    for row, weights in zip(one_way.compare(sums(0.3))["pairs"][:2], ({columns[0]: 1.0}, {columns[1]: 1.0}), strict=True):
        assert row["width_ratio"] < fitted.form(weights).width_ratio


def test_an_interval_holds_zero_just_where_p_is_above_five_percent() -> None:
    drawn = np.sort(np.abs(np.random.default_rng(0).standard_normal(1999)))
    (_,), critical = simultaneous.adjusted([0.0], drawn=drawn)
    (above, below), _ = simultaneous.adjusted([critical * (1 + 1e-9), -critical * (1 - 1e-9)], drawn=drawn)
    assert above <= 0.05 < below


def test_too_many_lost_draws_leave_no_interval() -> None:
    drawn = np.sort(np.concatenate([np.ones(1800), np.full(199, np.inf)]))
    (p,), critical = simultaneous.adjusted([5.0], drawn=drawn)
    assert critical is None
    assert p == 0.1


def test_the_noise_of_the_sums_is_as_stated_and_the_sums_are_not_biased() -> None:
    true, sigma = sums(1e-9).sums.ravel(), 2.0
    drawn = np.array([sums(sigma, seed=seed).sums.ravel() for seed in range(300)]) - true
    stated = np.diag(sums(sigma).root @ sums(sigma).root.T)
    assert np.var(drawn, axis=0) == pytest.approx(stated, rel=0.35)
    assert (np.abs(drawn.mean(axis=0)) < 4 * np.sqrt(stated / 300)).all()
    assert (stated[::3] < sigma**2).all()  # better than the one entry that holds the number of patients


@pytest.mark.parametrize("outcome", ["sex", "nothing"])
def test_groups_without_their_products_are_refused(outcome: str) -> None:
    with pytest.raises(ConfigError):
        sums(1.0, outcome=outcome)


def test_one_level_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="two groups"):
        group_sums.read(noisy.released(FRAME, held=STUDY, sigma=1.0), outcome="y", factor="grade", levels=["g1"])


def test_a_group_that_noise_drowns_is_named() -> None:
    with pytest.raises(NotEstimable) as error:
        welch.compare(sums(5.0))
    assert (error.value.diagnosis, error.value.term[:6]) == (resolved.DIAGNOSIS, "grade[")


def test_equal_sums_give_equal_tests_and_others_do_not() -> None:
    first, again, other = (json.dumps(welch.compare(sums(0.02, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


def grams(scatter: Any, *, sigma: float, n: float = 4000.0) -> Any:
    matrix = np.zeros((4, 4))
    matrix[0, 0], matrix[1:, 1:] = n, n * np.asarray(scatter)
    return noisy.moments(matrix + noisy.noise(4, sigma=sigma, random=np.random.default_rng(1)), names=NAMES, sigma=sigma)


def test_without_noise_components_are_the_exact_ones() -> None:
    names = ["y", "age", "x"]
    exact = principal.components(tables.pooled(FRAME, held=STUDY), names=names)
    ours = components.analyse(noisy.released(FRAME, held=STUDY, sigma=HARDLY), names=names)
    for row in ours["rows"]:
        first, *_, last = (int(one) for one in [*row["component"].split(" to ")] * 2)
        assert row["eigenvalue"] == pytest.approx(exact.eigenvalues[first - 1 : last].sum(), rel=1e-5)
        assert row["ci_low"] < row["eigenvalue"] < row["ci_high"]
        assert row["share"] == pytest.approx(row["eigenvalue"] / 3)
    for row in ours["loadings"]:
        assert row["loading"] == pytest.approx(exact.loadings[names.index(row["name"]), int(row["component"]) - 1], abs=1e-5)


def test_equal_eigenvalues_are_one_row_without_loadings() -> None:
    made = components.analyse(grams(0.05 * np.eye(3) + 0.03, sigma=2.0), names=NAMES)
    assert [row["component"] for row in made["rows"]] == ["1", "2 to 3"]
    assert {row["component"] for row in made["loadings"]} == {"1"}
    assert sum(row["eigenvalue"] for row in made["rows"]) == pytest.approx(3)
    assert all(row["width_ratio"] > 1 for row in made["rows"])


def test_a_column_of_noise_is_left_out_by_name_and_two_are_too_few() -> None:
    made = components.analyse(grams([[0.1, 0.02, 0], [0.02, 0.05, 0], [0, 0, 1e-5]], sigma=4.0), names=NAMES)
    assert (made["names"], made["too_noisy"]) == (["a", "b"], ["c"])
    with pytest.raises(NotEstimable) as error:
        components.analyse(grams(np.diag([0.1, 1e-5, 1e-5]), sigma=4.0), names=NAMES)
    assert error.value.diagnosis == resolved.DIAGNOSIS


@pytest.mark.parametrize("matrix", [0.003 * np.ones((3, 3)) - 1e-4 * np.eye(3), 0.1 * TURNED])
def test_components_of_a_matrix_that_noise_made_indefinite_are_too_noisy(matrix: np.ndarray) -> None:
    with pytest.raises(NotEstimable) as error:
        components.analyse(grams(matrix, sigma=2.0), names=NAMES)
    assert (error.value.diagnosis, error.value.term) == (resolved.DIAGNOSIS, "components")


def test_eigenvalues_that_are_all_alike_have_a_known_sum_and_no_width() -> None:
    made = components.analyse(grams(0.05 * np.eye(3), sigma=2.0), names=NAMES)
    (row,) = made["rows"]
    assert row["component"] == "1 to 3"
    assert [row["eigenvalue"], row["ci_low"], row["ci_high"]] == [3.0] * 3
    assert row["width_ratio"] is None
    assert made["loadings"] == []


NUMBERS = ("difference", "p", "p_tukey", "tukey_low", "p_games_howell", "ci_low", "ci_high")


def test_the_last_digits_of_least_squares_do_not_change_what_is_simulated() -> None:
    one = sums(0.02)
    other = replace(one, sums=one.sums * (1 + 4e-16))
    assert one.sums.tobytes() != other.sums.tobytes()
    for by in (one_way.compare, welch.compare):
        here, there = by(one, draws=199), by(other, draws=199)
        assert here["rows"][0]["p"] == there["rows"][0]["p"]
        for first, second in zip(here["pairs"], there["pairs"], strict=True):
            assert all(second[key] == pytest.approx(first[key], rel=1e-9) for key in NUMBERS if key in first)
