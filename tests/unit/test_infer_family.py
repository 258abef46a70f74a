"""A study's whole linear family is read from the opened sum, and each part that fails says why."""

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from common.wanted import Ancova, Grouping
from server import methods
from server.infer import family
from server.sections import sections
from tests import federation, tables
from tests.tables import FACTORS, NUMBERS

WANTED = {
    "correlation": ["y", "age", "x"],
    "models": ["y ~ grade * x + sex", "y ~ log(age)"],
    "groups": [Grouping(outcome="y", factor="grade")],
    "ancova": [Ancova(outcome="y", factor="grade", covariates=("age", "x"))],
    "descriptive": ["age", "sex"],
}


def test_every_declared_analysis_is_read_from_the_one_gram_as_json() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, **WANTED)
    part = json.loads(json.dumps(family.read(tables.pooled(tables.synthetic(), held=held), study=held), allow_nan=False))
    assert "diagnosis" not in json.dumps({key: value for key, value in part.items() if key != "ancova"})
    assert [model["formula"] for model in part["models"]] == ["y ~ grade + x + sex + grade:x", "y ~ log(age)"]
    assert [row["term"] for row in part["models"][0]["anova"]["III"]["rows"]] == ["grade", "x", "sex", "grade:x"]
    assert part["groups"][0]["f"] > 0
    assert len(part["ancova"][0]["means"]) == 3
    assert part["table_one"]["n"] == 400
    assert len(part["components"]["eigenvalues"]) == 3


def test_methods_name_every_formula_that_was_read_and_nothing_else() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, **WANTED)
    part = family.read(tables.pooled(tables.synthetic().assign(sex="f", x=2.0), held=held), study=held)
    said = methods.of_linear(part)
    assert any(text.startswith("y ~ log(age): least squares, analysis of variance of type I, II and III") for text in said)
    assert any("(no answer: x: constant)" in text for text in said)
    assert any("Welch's F (1951)" in text for text in said)
    (bare,) = methods.of_linear({"table_one": None, "components": {"diagnosis": "constant", "term": "x"}})
    assert bare.startswith("Principal components")
    assert bare.endswith("(no answer: x: constant)")
    assert methods.of_linear(None) == []


def test_part_without_an_answer_says_why_and_the_others_are_given() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, **WANTED)
    part = family.read(tables.pooled(tables.synthetic().assign(sex="f", x=2.0), held=held), study=held)
    assert part["models"][0]["fit"] == {"diagnosis": "constant", "term": "x"}
    assert part["models"][1]["fit"]["n"] == 400
    assert part["partial_correlation"]["diagnosis"] == "too few columns"
    assert part["ancova"][0]["diagnosis"] == "constant"
    assert part["groups"][0]["n"] == 400


def test_study_that_asks_nothing_more_gets_components_and_partial_correlations_only() -> None:
    held = tables.study({"y": (-50, 50), "age": (18, 100), "x": (-10, 10)}, correlation=["y", "age", "x"])
    part = family.read(tables.pooled(tables.synthetic(), held=held), study=held)
    assert (part["table_one"], part["models"], part["groups"], part["ancova"]) == (None, [], [], [])
    assert part["partial_correlation"]["r"][0][1] == pytest.approx(part["partial_correlation"]["r"][1][0])


def test_terms_of_a_study_go_through_vaults_and_coordinator_and_equal_statsmodels(make_federation) -> None:
    text = "malignancy ~ mean_hu * longest_diameter_mm + sqrt(depth_min_mm)"
    one, wanted = make_federation(), federation.study(variables=federation.TRANSFORMED, statistics={"models": [text]})
    one.approve(wanted)
    result = one.run(wanted)
    table = np.concatenate([vault.prepare(wanted.hash()).table for vault in one.vaults.values()])
    frame = pd.DataFrame(table, columns=[variable.name for variable in wanted.variables]).dropna()
    theirs = smf.ols(text.replace("sqrt", "np.sqrt"), frame).fit(method="qr")
    (model,) = result["linear"]["models"]
    for row in model["fit"]["rows"]:
        parts = row["term"].replace("(intercept)", "Intercept").replace("sqrt", "np.sqrt").split(":")
        name = next(name for name in theirs.params.index if sorted(name.split(":")) == sorted(parts))
        assert row["estimate"] == pytest.approx(theirs.params[name], rel=1e-10)
        assert row["standard_error"] == pytest.approx(theirs.bse[name], rel=1e-10)
        assert row["p"] == pytest.approx(theirs.pvalues[name], rel=1e-9)
    page = (next(one.folder.glob("run-*")) / "report.html").read_text()
    assert "mean_hu:longest_diameter_mm" in page
    assert "type III" in page


def test_report_shows_each_part_or_why_it_is_absent() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, **WANTED)
    full = sections(family.read(tables.pooled(tables.synthetic(), held=held), study=held))
    assert [section["title"] for section in full] == [
        "Table 1", "y ~ grade + x + sex + grade:x", "y ~ log(age)", "y by grade", "y by grade, adjusted for age, x",
        "Partial correlation", "Principal components",
    ]  # fmt: skip
    assert not any(section["absent"] for section in full)
    for section in full:
        for table in section["tables"]:
            assert all(len(row) == len(table["columns"]) for row in table["rows"])
    none = sections(family.read(tables.pooled(tables.synthetic().assign(sex="f", x=2.0), held=held), study=held))
    assert "x: constant" in none[1]["absent"]
    assert sections(None) == []


def test_p_value_that_underflowed_is_shown_as_small_not_as_zero() -> None:
    frame = tables.synthetic(4000)
    frame["y"] = (frame["age"] / 4 + frame["y"] / 1000).clip(-40, 40)
    held = tables.study(NUMBERS, factors=FACTORS, models=["y ~ age"])
    (model, *_) = sections(family.read(tables.pooled(frame, held=held), study=held))
    assert model["tables"][1]["rows"][0][4] == "< 1e\u2212300"
