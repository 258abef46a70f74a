"""Formulas are read from an allow-listed grammar, hostile ones are refused, and terms become columns of the dictionary."""

import time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patsy import dmatrix

from client import summarise
from client.inside import Cohort
from common import canonical, formula, moments, terms
from common.errors import ConfigError
from common.study import Study, parse
from tests import federation

DICTIONARY = {
    "y": SimpleNamespace(levels=(), transforms=()),
    "age": SimpleNamespace(levels=(), transforms=("log", "square")),
    "x": SimpleNamespace(levels=(), transforms=()),
    "log": SimpleNamespace(levels=(), transforms=()),
    "grade": SimpleNamespace(levels=("g1", "g2", "g3"), transforms=()),
    "sex": SimpleNamespace(levels=("f", "m"), transforms=()),
}


def expanded(text: str) -> str:
    return str(formula.parse(text))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("y ~ a", "y ~ a"),
        ("y~a+b", "y ~ a + b"),
        ("y ~ a*b", "y ~ a + b + a:b"),
        ("y ~ a:b + a + b", "y ~ a + b + a:b"),
        ("y ~ a + a + b:a + a:b", "y ~ a + b:a"),
        ("y ~ a:a", "y ~ a"),
        ("y ~ (a + b) * c", "y ~ a + b + c + a:c + b:c"),
        ("y ~ (a + b):c + a + b + c", "y ~ a + b + c + a:c + b:c"),
        ("y ~ a*b*c - a:b:c", "y ~ a + b + c + a:b + a:c + b:c"),
        ("y ~ a + b - b", "y ~ a"),
        ("y ~ a + b - (c + b)", "y ~ a"),
        ("y ~ a * b : c", "y ~ a + b:c + a:b:c"),
        ("log(y) ~ log1p(a) + sqrt(b) + square(c)", "log(y) ~ log1p(a) + sqrt(b) + square(c)"),
        ("y ~ log + log(log)", "y ~ log + log(log)"),
        ("  y ~ ((((a))))  ", "y ~ a"),
        ("y ~ site-b", "y ~ site-b"),  # a name may hold a minus; taking away needs a space
    ],
)
def test_formula_expands_as_in_r(text: str, result: str) -> None:
    assert expanded(text) == result
    assert expanded(result) == result


HOSTILE = {
    "empty": "",
    "blank": "   ",
    "no tilde": "y + a",
    "two tildes": "y ~ a ~ b",
    "no outcome": "~ a",
    "no term": "y ~",
    "everything taken away": "y ~ a - a",
    "outcome among terms": "y ~ a + y",
    "transformed outcome among terms": "y ~ a + log(y)",
    "number": "y ~ a + 1",
    "no intercept": "y ~ a - 1",
    "dunder": "y ~ __import__",
    "call of a dunder": "y ~ __import__('os').system('id')",
    "call": "y ~ exp(a)",
    "patsy call": "y ~ C(a)",
    "identity call": "y ~ I(a)",
    "call of an expression": "y ~ log(a + b)",
    "nested call": "y ~ log(log(a))",
    "call of nothing": "y ~ log()",
    "attribute": "y ~ a.b",
    "index": "y ~ a[0]",
    "power": "y ~ (a + b)**2",
    "string": "y ~ 'a'",
    "backtick": "y ~ `a`",
    "lambda": "y ~ lambda x: x",
    "statement": "y ~ a; b",
    "new line": "y ~ a\n+ b",
    "tab": "y ~\ta",
    "null": "y ~ a\0",
    "capital": "y ~ A",
    "cyrillic a": "y ~ \u0430",
    "fullwidth a": "y ~ \uff41",
    "combining mark": "y ~ a\u0301",
    "right to left": "y ~ \u202ea",
    "fullwidth tilde": "y \uff5e a",
    "other digit": "y ~ a\u0661",
    "no-break space": "y ~\u00a0a",
    "open": "y ~ (a + b",
    "closed": "y ~ a)",
    "two names": "y ~ a b",
    "two signs": "y ~ a + + b",
    "sign at the end": "y ~ a +",
    "name of 65": "y ~ " + "a" * 65,
    "interaction of four": "y ~ a:b:c:d",
    "deep": "y ~ " + "(" * 17 + "a" + ")" * 17,
    "nested 10,000 times": "y ~ " + "(" * 10_000 + "a" + ")" * 10_000,
    "huge": "y ~ " + " + ".join(f"a{i}" for i in range(100_000)),
    "many terms": "y ~ " + " + ".join(f"a{i}" for i in range(65)),
    "many products": "y ~ (a+b+c+d+e+f+g+h+i) * (j+k+l+m+n+o+p+q+r)",
}


@pytest.mark.parametrize(
    ("text", "position"),
    [("@", 1), ("y ~ x @ z", 7), ("y ~ x   1", 9), ("y ~ (x", 7), ("y ~ x z", 7), ("y ~ +", 5), ("y ~ exp(x)", 5)],
)
def test_a_position_counts_from_one_and_is_that_of_what_is_wrong(text: str, position: int) -> None:
    with pytest.raises(ConfigError, match=rf"character {position}\b"):
        formula.parse(text)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_formula_is_refused_at_once_and_not_repeated(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError) as refused:
        formula.parse(text)
    assert time.process_time() - started < 1
    assert len(str(refused.value)) < 300
    assert len(text) < 6 or text not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("y ~ nothing", "nothing is not among"),
        ("grade ~ age", "the outcome grade has levels"),
        ("y ~ log(grade)", "grade has levels"),
        ("y ~ sqrt(age)", r"sqrt\(age\) is not declared"),
        ("y ~ grade:age", "without grade"),
        ("y ~ grade + grade:age", "without age"),
        ("y ~ grade*age*sex - grade:sex", "without grade:sex"),
    ],
)
def test_formula_that_does_not_fit_the_dictionary_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        terms.expand(formula.parse(text), dictionary=DICTIONARY)


def test_levels_become_treatment_columns_and_interactions_products() -> None:
    model = terms.expand(formula.parse("y ~ sex*grade + grade*log(age) + square(age)"), dictionary=DICTIONARY)
    assert [(term.name, [column.name for column in term.columns]) for term in model.terms] == [
        ("sex", ["sex[m]"]),
        ("grade", ["grade[g2]", "grade[g3]"]),
        ("log(age)", ["log(age)"]),
        ("square(age)", ["square(age)"]),
        ("sex:grade", ["grade[g2]:sex[m]", "grade[g3]:sex[m]"]),
        ("grade:log(age)", ["log(age):grade[g2]", "log(age):grade[g3]"]),
    ]
    assert model.terms[0].factors == {"sex"}
    assert model.levels == {"sex": ("f", "m"), "grade": ("g1", "g2", "g3")}


def study(models: list[str], **parts: Any) -> Study:
    transforms = ["log", "log1p", "sqrt", "square"]
    age = {"name": "age", "source": "clinical", "unit": "a", "lower": Decimal(18), "upper": Decimal(100)}
    factors = [
        {"name": name, "source": "clinical", "unit": "1", "levels": levels}
        for name, levels in (("grade", ["g1", "g2", "g3"]), ("sex", ["f", "m"]))
    ]
    return federation.study(
        variables=[*federation.STUDY["variables"], {**age, "transforms": transforms}, *factors],
        statistics={"models": models, **parts},
    )


def cohort(held: Study, table: np.ndarray) -> Cohort:
    return Cohort(
        patients=tuple(f"{i}" for i in range(len(table))),
        columns=tuple(variable.name for variable in held.variables),
        table=table,
        views=np.zeros((0, 1, 8, 8), dtype=np.float32),
        bags=tuple(() for _ in table),
    )


def rows(count: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.column_stack(
        [
            rng.uniform(0, 100, count), rng.uniform(-1000, 1000, count), rng.uniform(0, 200, count), rng.uniform(0, 8, count),
            rng.uniform(18, 100, count), rng.integers(0, 3, count), rng.integers(0, 2, count),
        ]
    )  # fmt: skip


MODELS = [
    "malignancy ~ grade * sex * log(age) + mean_hu*grade",
    "log(age) ~ sex * mean_hu",
    "malignancy ~ sqrt(age) + square(age) + log1p(age)",
]
PATSY = "grade*sex*np.log(age) + grade*mean_hu + sex*mean_hu + np.sqrt(age) + np.square(age) + np.log1p(age)"


def named(patsys: str) -> str:
    """Spell a column of patsy's as ours: treatment without T., pieces by variable."""
    pieces = [piece.removeprefix("np.") for piece in patsys.replace("[T.", "[").split(":")]
    return ":".join(sorted(pieces, key=lambda piece: piece.split("(")[-1].split("[")[0]))


def test_columns_on_the_grid_equal_patsys_design_of_the_rows() -> None:
    held, x = study(MODELS), rows(50)
    z = summarise.complete_rows(cohort(held, x), study=held)
    data = {variable.name: x[:, at] for at, variable in enumerate(held.variables)}
    data |= {"grade": np.array(["g1", "g2", "g3"])[x[:, 5].astype(int)], "sex": np.array(["f", "m"])[x[:, 6].astype(int)]}
    design = dmatrix(PATSY, data)
    theirs = {named(name): design[:, at] for at, name in enumerate(design.design_info.column_names)}
    for at, (name, scale) in enumerate(zip(held.columns(), moments.scales(held), strict=True)):
        if name in theirs:
            ours = np.ldexp((z[:, at] + float(scale.origin)), -scale.exponent)
            assert np.max(np.abs(ours - theirs.pop(name))) <= 2.0**-51 * max(abs(scale.lower), abs(scale.upper)), name
    assert set(theirs) == {"Intercept"}


def test_columns_of_a_study_are_named_once_and_plain_ones_come_first() -> None:
    held = study(["malignancy ~ grade*age", "malignancy ~ age*grade + mean_hu"], descriptive=["sex", "age"])
    plain = ("longest_diameter_mm", "mean_hu", "depth_min_mm", "malignancy", "age")
    added = ("grade[g2]", "grade[g3]", "age:grade[g2]", "age:grade[g3]", "sex[m]")
    assert held.columns() == plain + added
    assert parse(held.canonical_bytes()) == held
    assert len(moments.scales(held)) == len(held.columns())


def test_patient_whose_level_is_missing_or_not_declared_is_left_out() -> None:
    held, x = study(["malignancy ~ grade"]), rows(30)
    x[3, 5], x[4, 5], x[5, 5], x[6, 6] = np.nan, 0.5, 3, np.nan  # sex is not in the Gram
    assert len(summarise.complete_rows(cohort(held, x), study=held)) == 27


@pytest.mark.parametrize("bad", ["malignancy ~ nothing", "malignancy ~ __class__", "malignancy ~ sex:grade", "grade ~ sex"])
def test_study_with_a_formula_that_cannot_be_is_not_valid(bad: str) -> None:
    with pytest.raises(ValueError, match=r"The (formula|model) cannot"):
        study([bad])


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"groups": [{"outcome": "malignancy", "factor": "age"}]}, "age has no levels"),
        ({"groups": [{"outcome": "sex", "factor": "grade"}]}, "sex has levels"),
        ({"groups": [{"outcome": "malignancy", "factor": "nothing"}]}, "nothing is not among"),
        ({"ancova": [{"outcome": "malignancy", "factor": "sex", "covariates": ["grade"]}]}, "grade has levels"),
        ({"correlation": ["age", "sex"]}, "sex has levels"),
        ({"descriptive": ["nothing"]}, "nothing is not among"),
    ],
)
def test_analysis_of_the_wrong_kind_of_variable_is_refused_by_name(parts: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        study([], **parts)


@pytest.mark.parametrize(
    "change",
    [
        {"levels": ["a"]},
        {"levels": ["a", "a"]},
        {"levels": ["a", "b:c"]},
        {"levels": ["a", "b]"]},
        {"levels": ["a", ""]},
        {"levels": ["a", "b"], "upper": Decimal(3)},
        {"levels": ["a", "b"], "transforms": ["log"]},
        {"lower": Decimal(0), "upper": Decimal(1), "transforms": ["log"]},
        {"lower": Decimal(-1), "upper": Decimal(1), "transforms": ["sqrt"]},
        {"lower": Decimal(-1), "upper": Decimal(1), "transforms": ["log1p"]},
        {"lower": Decimal(1), "upper": Decimal(2), "transforms": ["exp"]},
    ],
)
def test_variable_that_contradicts_itself_is_not_valid(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"level|transform|bounds|Input should be"):
        federation.study(variables=[*federation.STUDY["variables"], {"name": "g", "source": "clinical", "unit": "1", **change}])


def test_each_column_is_a_question_that_does_not_depend_on_undeclared_uses() -> None:
    held = study(MODELS)
    for name in held.columns():
        assert held.variable(name).name == name
        canonical.encode(held.variable(name).model_dump(mode="python"))
    fewer = federation.study(
        variables=[one.model_copy(update={"transforms": ()}).model_dump() for one in held.variables],
        statistics={"models": ["malignancy ~ grade * age"]},
    )
    for name in ("age", "grade[g2]"):
        assert fewer.variable(name) == held.variable(name)
    with pytest.raises(KeyError):
        held.variable("nothing")
