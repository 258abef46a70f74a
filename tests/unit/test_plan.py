"""motet-coordinator plan: what it says before is what a run charges and does; wrong input is an error that names it."""

import io
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from client import config
from common import announcement, noisy_moments, query
from common.errors import ConfigError, NotEstimable
from common.ledger import accounting
from common.noisy_moments import NoisyMoments
from server import plan as plans
from server import plan_rules, plan_shown
from server.infer.private import least_squares, typical
from tests import cohorts, federation, tables
from tests.commands import STUDY_FILE
from tests.commands import coordinator as motet
from tests.tables import FACTORS, NUMBERS

PRIVACY: dict[str, Any] = {
    "noise_multiplier": Decimal("1.2"),
    "clip_norm": Decimal("1.4"),
    "delta": Decimal("1e-6"),
    "patients_max": 20_000,
    "colluders": 1,
    "rounds_void_allowed": 1,
}
FORMULA = "y ~ grade * sex + age"


def private(**changes: Any) -> Any:
    return tables.study(NUMBERS, factors=FACTORS, models=[FORMULA], privacy={**PRIVACY, **changes})


def test_epsilons_are_what_the_ledger_charges_for_the_announced_mechanisms() -> None:
    study = private()
    said = plans.plan(study, patients=4000, hospitals=5)
    sizes = {"gram": noisy_moments.packed_size(len(study.columns())), "train": said["training"]["numbers"]}
    gram, step = (announcement.mechanism_for(study, task=task, hospitals=5, dimension=size) for task, size in sizes.items())
    steps = study.training.steps
    for part, releases, delta in (
        (said["gram"], [gram], "1e-6"),
        (said["gram"]["epsilon_with_void_rounds"], [gram] * 2, "1e-6"),
        (said["training"], [step] * steps, "1e-5"),
        (said["training"]["epsilon_with_void_rounds"], [step] * (steps + 2), "1e-5"),
        (said["total"], [gram] + [step] * steps, "1e-5"),
    ):
        charged = accounting.Tally(releases).epsilon_rdp(delta=Decimal(delta))
        assert Decimal(part["epsilon_rdp"]) == accounting.round_up(charged)
        assert Decimal(part["epsilon"]) == accounting.round_up(accounting.epsilon_pld(releases, delta=Decimal(delta)))
    assert said["gram"]["sigma"] == gram.noise_deviation
    assert said["gram"]["sensitivity"] == pytest.approx(1.4**2, rel=1e-3)


def test_the_plan_of_a_study_is_what_its_run_charges(make_federation: Any) -> None:
    study = federation.study()
    one = make_federation()
    one.approve(study)
    result = one.run(study)
    said = plans.plan(study, hospitals=4)
    assert float(said["training"]["epsilon"]) == pytest.approx(float(result["training"]["epsilon"]), abs=1e-4)
    assert float(said["training"]["epsilon_rdp"]) == pytest.approx(float(result["training"]["epsilon_rdp"]), abs=1e-4)
    opened = [one["task"] for one in result["rounds"] if one["state"] == "opened"]
    assert [task for one in said["rounds"] for task in [one["task"]] * (one["rounds"] or 0)] == opened


def test_without_privacy_the_gram_is_exact_and_epsilon_infinite() -> None:
    said = plans.plan(federation.study())
    assert (said["gram"]["mechanism"], said["gram"]["epsilon"]) == ("none", "infinite")
    assert "exact" in said["advice"][0]
    assert said["gram"]["numbers"] == 17  # 4 columns, and who is left out


def test_forecast_widths_are_those_of_the_inference_itself() -> None:
    study, n, sigma = private(), 400_000, 4.0
    held = typical.cohort(study, clip_norm=100.0)
    names = held.columns
    box = [typical.box(*study.bounds(column)) for column in study.design()]
    noisy = NoisyMoments(
        columns=names,
        centre=tuple(centre for centre, _ in box),
        half=tuple(half for _, half in box),
        matrix=held.mean * n,
        sigma=sigma,
        clip_norm=100.0,
        epsilon="1",
        delta="1e-6",
        hospitals=4,
    )
    model = study.model(FORMULA)
    fitted = least_squares.fit(noisy, outcome="y", predictors=model.predictors)
    for row in typical.coefficients(held, outcome="y", predictors=model.predictors, n=n, sigma=sigma):
        assert row["width_ratio"] == pytest.approx(fitted.form({row["term"]: 1.0}).width_ratio, rel=0.01)


def test_patients_needed_give_the_width_that_they_promise() -> None:
    study = private()
    rows = plans.plan(study, patients=1000)["gram"]["coefficients"]
    for at, row in enumerate(rows):
        again = plans.plan(study, patients=row["patients_needed"])["gram"]["coefficients"][at]
        assert again["width_ratio"] == pytest.approx(1.1, abs=1e-3) or again["width_ratio"] < 1.1


def test_one_predictor_in_standard_deviations_needs_the_patients_of_the_reference() -> None:
    held = typical.Typical(columns=("x", "y"), mean=np.eye(3), norms=(1.0, 2.0), clipped=0.0, lost=0.0)
    (row,) = typical.coefficients(held, outcome="y", predictors=["x"], n=10**6, sigma=20.0)
    assert row["patients_needed"] == pytest.approx(2.4 * 20.0**2, rel=0.01)


def test_power_grows_with_patients_and_falls_with_noise() -> None:
    few, many = (plans.plan(private(), patients=n)["gram"] for n in (4000, 100_000))
    louder = plans.plan(private(noise_multiplier=Decimal(5)), patients=100_000)["gram"]
    for key in ("pairs", "coefficients", "terms"):
        for first, second, third in zip(few[key], many[key], louder[key], strict=True):
            assert second["power"] >= first["power"]
            assert third["power"] <= second["power"] + 1e-9
            assert third["patients_needed"] > second["patients_needed"]


def test_too_few_patients_are_told_so_and_no_width_is_made_up() -> None:
    said = plans.plan(private(), patients=30)
    assert all(row["width_ratio"] is None and row["power"] == 0 for row in said["gram"]["coefficients"])
    assert "too noisy" in " ".join(said["advice"])


@pytest.mark.parametrize(("clip_norm", "words"), [("1.01", "bends the figures"), ("9", "grows with its square")])
def test_a_clip_that_binds_or_is_idle_is_told(clip_norm: str, words: str) -> None:
    assert words in " ".join(plans.plan(private(clip_norm=Decimal(clip_norm)))["advice"])


def test_a_delta_too_large_for_the_planned_patients_is_told() -> None:
    few, many = (" ".join(plans.plan(private(), patients=n)["advice"]) for n in (999_999, 1_000_000))
    assert "statistics.privacy.delta" not in few
    assert "statistics.privacy.delta is not below 1 over 1000000 patients" in many


def test_declared_analyses_stay_without_noise_and_are_counted() -> None:
    logistic = {"kind": "logistic", "formula": "sex ~ age", "queries_max": 40}
    said = plans.plan(tables.study(NUMBERS, factors=FACTORS, privacy=PRIVACY, analyses=[logistic]))
    (one,) = said["analyses"]
    assert (one["epsilon"], one["releases_most"], one["coefficients"]) == ("infinite", 40, 2)
    assert any("2 coefficients need 20 patients" in rule for rule in said["rules"])
    assert any("2 count against exact_releases_max" in rule for rule in said["rules"])  # the analysis and the histograms


def test_exact_analyses_beside_a_noisy_gram_are_advised_of() -> None:
    logistic = {"kind": "logistic", "formula": "sex ~ age", "queries_max": 40}
    both, noisy, exact = (
        plans.plan(tables.study(NUMBERS, factors=FACTORS, **more))["advice"]
        for more in ({"privacy": PRIVACY, "analyses": [logistic]}, {"privacy": PRIVACY}, {"analyses": [logistic]})
    )
    (said,) = [text for text in both if "outside its epsilon" in text]
    assert "analysis-1-logistic" in said
    assert not any("outside its epsilon" in text for text in (*noisy, *exact))


def test_numbers_are_those_of_the_longest_sum_with_who_is_left_out() -> None:
    declared = [
        {"kind": "ordinal", "formula": "grade ~ age", "queries_max": 40},
        {"kind": "agreement", "readers": ["y", "age"]},
    ]
    study = tables.study(NUMBERS, factors=FACTORS, analyses=declared)
    ordinal, agreement = plans.plan(study)["analyses"]
    longest = max(query.dimension(form.example()) for form in study.asked(0).forms)
    assert ordinal["numbers"] == longest + 2 > query.dimension(study.asked(0).forms[0].example()) + 2
    assert agreement["numbers"] == 6 + 2  # 1, y, age and their products


def test_a_table_of_many_cells_is_advised_against() -> None:
    ranks = {"kind": "ranks", "response": "y", "group": "grade", "bins": 8}
    study = tables.study(NUMBERS, factors=FACTORS, analyses=[ranks])
    crowded, roomy = (plans.plan(study, patients=n, hospitals=4) for n in (400, 40_000))
    (one,) = crowded["analyses"]
    assert one["cells"] == 8 * len(FACTORS["grade"])
    assert any("analysis-1-ranks counts in" in text and "Ask for fewer bins." in text for text in crowded["advice"])
    assert not any("analysis-1-ranks" in text for text in roomy["advice"])


def test_a_harmonisation_that_is_applied_stands_before_the_gram() -> None:
    said = plans.plan(cohorts.study({"kind": "combat", "features": ["x1", "x2"], "covariates": ["time"], "apply": True}))
    assert [one["task"] for one in said["rounds"][:2]] == ["analysis-1-combat", "gram"]


@pytest.mark.parametrize(
    ("declared", "hospitals", "rule"),
    [
        (
            {"kind": "k-means", "variables": ["x1"], "sizes": [2], "queries_max": 9},
            4,
            "refused by a hospital without cluster_sums",
        ),
        ({"kind": "mixed", "formula": "x1 ~ x2", "queries_max": 9}, 4, "refused by a hospital without site_aggregates"),
        ({"kind": "fixed-site", "formula": "x1 ~ x2"}, 3, "refused by a hospital without site_aggregates"),
        ({"kind": "fixed-site", "formula": "x1 ~ x2"}, 4, ""),
        ({"kind": "meta-analysis", "formula": "x1 ~ x2"}, 4, "answered without random effects by a hospital without"),
        ({"kind": "meta-analysis", "formula": "x1 ~ x2"}, 5, ""),
        ({"kind": "forest", "formula": "x1 ~ x2"}, 5, "answered with zeros in place of its own row by a hospital without"),
    ],
)
def test_what_needs_a_hospitals_permission_is_said(declared: dict[str, Any], hospitals: int, rule: str) -> None:
    said = [text for text in plans.plan(cohorts.study(declared), hospitals=hospitals)["rules"] if "= true in site.toml" in text]
    assert len(said) == bool(rule)
    assert all(rule in text for text in said)


def test_analyses_that_together_show_hospitals_sums_are_said() -> None:
    three = [{"kind": "meta-analysis", "formula": f"malignancy ~ {terms}"} for terms in ("x1 + x2", "x1", "x2")]
    declared = [*three, {"kind": "fixed-site", "formula": "malignancy ~ x1 + x2"}]
    rules = plans.plan(cohorts.study(*declared), hospitals=4)["rules"]
    assert sum("the study's analyses together can show a hospital's own sums" in rule for rule in rules) == len(declared)


def test_floors_are_those_that_a_hospital_starts_with() -> None:
    assert (plan_rules.CELL_MIN, plan_rules.PARAMETERS_SHARE_MAX) == (config.CELL_MIN, config.PARAMETERS_SHARE_MAX)


def test_equal_studies_have_equal_plans() -> None:
    assert json.dumps(plans.plan(private())) == json.dumps(plans.plan(private()))


@pytest.mark.parametrize(("patients", "hospitals"), [(1, None), (1 << 23, None), (None, 2), (None, 65)])
def test_a_plan_for_nobody_or_too_many_is_refused(patients: int | None, hospitals: int | None) -> None:
    with pytest.raises(ConfigError):
        plans.plan(private(), patients=patients, hospitals=hospitals)


def test_noise_that_fits_no_ring_is_refused() -> None:
    with pytest.raises(ConfigError):
        plans.plan(federation.study(privacy={"noise_multiplier": Decimal("1e-9")}))


def test_command_prints_a_table_or_json_and_needs_no_folder() -> None:
    code, said = motet("plan", STUDY_FILE, "--json")
    assert code == 0
    assert json.loads(said)["gram"]["epsilon"] == "infinite"
    code, said = motet("plan", STUDY_FILE, "--patients", "500")
    assert code == 0
    assert "500 patients in 3 hospitals" in said
    assert "Advice:" in said


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_told_that_a_plan_is_computed_and_a_file_is_not(terminal: bool) -> None:
    written = io.StringIO()
    with plan_shown.waiting(Console(file=written, force_terminal=terminal, force_interactive=terminal, width=200)) as shown:
        shown.refresh()
    assert ("Computing" in written.getvalue()) is terminal
    assert bool(written.getvalue()) is terminal


def test_command_shows_what_a_noisy_gram_would_give(tmp_path: Any) -> None:
    keys = "".join(f"{key} = {value}\n" for key, value in PRIVACY.items())
    text = STUDY_FILE.read_text().replace("[statistics.regression]", f"[statistics.privacy]\n{keys}\n[statistics.regression]")
    (tmp_path / "study.toml").write_text(text)
    code, said = motet("plan", tmp_path / "study.toml", "--patients", "1000000")
    assert code == 0
    for expected in ("Coefficients", "age_years", "power, r = 0.2", "Correlations, the 5 widest of 78", "ledger"):
        assert expected in said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("nowhere.toml",), 10), ((STUDY_FILE, "--patients", "0"), 64), ((STUDY_FILE, "--patients", "x"), 64)],
)
def test_wrong_input_is_an_error_with_its_exit_code(arguments: tuple[Any, ...], code: int) -> None:
    found, said = motet("plan", *arguments)
    assert found == code
    assert "Traceback" not in said


def test_a_file_that_is_no_study_is_an_error_that_names_the_key(tmp_path: Any) -> None:
    (tmp_path / "study.toml").write_text("name = 'x'\n")
    code, said = motet("plan", tmp_path / "study.toml")
    assert code == 10
    assert "statistics" in said


def test_a_fit_that_the_plan_calls_too_noisy_has_no_number() -> None:
    study = private()
    held = typical.cohort(study, clip_norm=1.4)
    (row, *_) = typical.coefficients(held, outcome="y", predictors=["age"], n=50, sigma=4.0)
    assert row["width_ratio"] is None
    p = len(held.columns)
    noisy = NoisyMoments(
        columns=held.columns,
        centre=(0.0,) * p,
        half=(1.0,) * p,
        matrix=held.mean * 50,
        sigma=4.0,
        clip_norm=1.4,
        epsilon="1",
        delta="1e-6",
        hospitals=4,
    )
    with pytest.raises(NotEstimable):
        least_squares.fit(noisy, outcome="y", predictors=["age"])


def test_a_plan_forecasts_pairs_of_groups_as_the_analyses_would_find_them() -> None:
    wanted = {
        "groups": [{"outcome": "y", "factor": "grade"}],
        "ancova": [{"outcome": "y", "factor": "grade", "covariates": ["age"]}],
    }
    study = tables.study(
        {"y": (-3, 3), "age": (18, 100)}, factors=FACTORS, privacy={**PRIVACY, "clip_norm": Decimal("2.8")}, **wanted
    )
    few, many = (
        {row["comparison"] + row["method"]: row for row in plans.plan(study, patients=n)["gram"]["comparisons"]}
        for n in (500, 5000)
    )
    assert list(few) == ["y by gradeTukey-Kramer", "y by gradeGames-Howell", "y ~ grade + ageTukey-Kramer"]
    assert few["y by gradeGames-Howell"]["width_ratio"] is None
    for row in many.values():
        at_need = plans.plan(study, patients=row["patients_needed"])["gram"]["comparisons"]
        (same,) = (one for one in at_need if (one["comparison"], one["method"]) == (row["comparison"], row["method"]))
        assert same["width_ratio"] == pytest.approx(typical.WIDER, abs=0.01)
        assert row["power"] > 0.99
