"""A study's whole linear family is read from the opened sum, and each part that fails says why."""

import json

import pytest

from common.study import Ancova, Grouping
from server.infer import family
from tests import tables
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
