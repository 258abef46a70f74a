"""A query is data that a hospital can judge alone; hostile, wrong and huge ones are refused by name."""

import json
import math

import numpy as np
import pytest

from client.kernels.answer import KERNELS, PLACED, answer
from client.kernels.rows import Rows
from common import canonical, fixed_point, query, terms
from common.errors import BadQuery, DataError
from common.query import Query, ask
from tests.pooling import rows_of

FIT = {"rows": [80.0], "mean": [0.0], "scale": [1.0], "basis": [0.1], "slope": [0.2], "outcome": [4.0, 2.0]}
RISING = {"grid.0": (0.0, 1.0, 2.0)}


def valid() -> dict[str, Query]:
    """One query per kernel."""
    zeros = [0.0, 0.0]
    return {
        "logistic": ask("logistic", responses=["y"], predictors=["x"], numbers={"coefficients": zeros}),
        "firth": ask("firth", responses=["y"], predictors=["x"], numbers={"coefficients": zeros, "inverse": [1.0, 0.0, 1.0]}),
        "ordinal": ask("ordinal", responses=["y"], predictors=["x"], numbers={"thresholds": [0.5], "coefficients": [0.0]}),
        "gram": ask("gram", responses=["y", "x"]),
        "table": ask("table", responses=["y"], numbers=RISING),
        "marginals": ask("marginals", responses=["y", "x"], numbers=RISING | {"grid.1": (-9.0, 0.0, 9.0)}),
        "rank_gram": ask("rank_gram", responses=["y"], numbers=RISING | {"score.0": [-0.5, 0.5]}),
        "cox": ask(
            "cox",
            responses=["t", "y"],
            predictors=["x"],
            numbers={"coefficients": [0.1], "offset": [0.0], "grid.0": (0.0, 1.0, 9.0)},
        ),
        "cox_stratified": ask("cox_stratified", responses=["t", "y"], predictors=["x"], numbers={"coefficients": [0.1]}),
        "lloyd": ask("lloyd", responses=["x"], numbers={"centre": [0.0], "scale": [1.0], "centres": [-1.0, 1.0]}),
        "mixture": ask(
            "mixture",
            responses=["x"],
            numbers={"centre": [0.0], "scale": [1.0], "weights": [0.5, 0.5], "means": [-1.0, 1.0], "variances": [1.0, 1.0]},
        ),
        "within": ask("within", responses=["x"], predictors=["t"]),
        "mixed": ask("mixed", responses=["t"], predictors=["x"], numbers={"ratio": [0.5]}),
        "exact_gram": ask("exact_gram", responses=["t"], predictors=["x"]),
        "absorbed": ask("absorbed", responses=["t"], predictors=["x"]),
        "residuals": ask("residuals", responses=["t"], predictors=["x"], numbers=FIT),
        "meta": ask("meta", responses=["t"], predictors=["x"]),
        "meta_random": ask("meta_random", responses=["t"], predictors=["x"], numbers={"tau": [0.5]}),
        "meta_rows": ask("meta_rows", responses=["t"], predictors=["x"]),
    }


def table(n: int = 40) -> Rows:
    rng = np.random.default_rng(13)
    return rows_of({"y": rng.integers(0, 2, n) * 1.0, "x": rng.normal(size=n), "t": rng.integers(1, 9, n) * 1.0})


def test_every_kernel_answers_with_the_dimension_that_its_query_says() -> None:
    queries = valid()
    assert set(queries) == set(KERNELS) | set(PLACED)
    for name, asked in queries.items():
        for rows in (table(), table().part(np.zeros(40, dtype=bool))):
            result = answer(rows, query=query.parse(asked.bytes()))
            assert len(result.values) == query.dimension(asked), name
            assert result.patients == len(rows.values)
            assert result.statistic == name
        assert not any(result.values), "no patient adds nothing"


def test_a_query_comes_back_from_its_bytes_bit_for_bit() -> None:
    numbers = {"coefficients": [0.1 + 0.2, -1e-300]}
    asked = ask("logistic", responses=["y"], predictors=["x"], numbers=numbers)
    assert query.parse(asked.bytes()) == asked
    assert b"0x1.3333333333334p-2" in asked.bytes()


def change(**parts: object) -> bytes:
    plain = json.loads(valid()["logistic"].bytes()) | parts
    return canonical.encode(plain)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b" " * (query.BYTES_MOST + 1),
        change(kernel="eval"),
        change(kernel=1),
        change(responses=[]),
        change(responses=["y", "t"]),
        change(responses=["x"]),
        change(responses=["__import__('os')"]),
        change(responses="y"),
        change(predictors=[f"x{i}" for i in range(200)]),
        change(numbers={}),
        change(numbers={"coefficients": []}),
        change(numbers={"coefficients": ["0x0.0p+0"]}),
        change(numbers={"coefficients": ["nan", "0x0.0p+0"]}),
        change(numbers={"coefficients": ["inf", "0x0.0p+0"]}),
        change(numbers={"coefficients": ["0x1.0p+21", "0x0.0p+0"]}),
        change(numbers={"coefficients": ["0x1p99999", "0x0.0p+0"]}),
        change(numbers={"coefficients": ["0", "0x0.0p+0"]}),
        change(numbers={"coefficients": ["0x0.0p+0", "0x0.0p+0"], "extra": ["0x1.0p+0"]}),
        change(numbers={"coefficients": [0, 0]}),
        change(more=1),
        valid()["logistic"].bytes() + b" ",
    ],
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadQuery):
        query.parse(data)


@pytest.mark.parametrize(
    ("kernel", "responses", "numbers"),
    [
        ("table", ["y"], {"grid.0": (0.0, 2.0, 1.0)}),
        ("table", ["y"], {"grid.0": (0.0, 1.0, 1.0)}),
        ("table", ["y"], {"grid.0": (0.0,)}),
        ("table", ["y"], {"grid.0": np.arange(query.BINS_MOST + 2.0)}),
        ("table", ["y", "x"], RISING),
        ("table", ["y", "x"], {"grid.0": np.arange(2001.0), "grid.1": np.arange(2001.0)}),
        ("rank_gram", ["y"], RISING | {"score.0": [1.0]}),
        ("lloyd", ["x"], {"centre": [0.0], "scale": [0.0], "centres": [0.0]}),
        ("lloyd", ["x"], {"centre": [0.0], "scale": [1.0], "centres": [0.0] * 65}),
        ("lloyd", ["x", "y"], {"centre": [0.0] * 2, "scale": [1.0] * 2, "centres": [0.0] * 3}),
        ("mixture", ["x"], {"centre": [0.0], "scale": [1.0], "weights": [1.0], "means": [0.0], "variances": [-1.0]}),
        ("ordinal", ["y"], {"thresholds": [1.0, 0.0]}),
        ("mixed", ["y"], {"ratio": [-1.0]}),
        ("mixed", ["y"], {"ratio": [1e300]}),
        ("mixture", ["x"], {"centre": [0.0], "scale": [1.0], "weights": [1.0], "means": [0.0], "variances": [1e-300]}),
        ("mixed", ["y"], {"ratio": [0.0, 1.0]}),
        ("meta_random", ["y"], {"tau": [-1.0]}),
        ("exact_gram", ["y", "x"], {}),
        ("cox", ["t"], {"coefficients": [0.0], "grid.0": (0.0, 1.0)}),
        ("gram", [f"x{i}" for i in range(129)], {}),
        ("gram", ["x", "x"], {}),
    ],
)
def test_wrong_and_huge_queries_are_refused(kernel: str, responses: list[str], numbers: dict) -> None:
    with pytest.raises(BadQuery):
        ask(kernel, responses=responses, numbers=numbers)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [0.0]},
        {"rows": [1.5]},
        {"rows": [2.0**23]},
        {"scale": [0.0]},
        {"slope": [1e300]},
        {"basis": [0.1, 0.1]},
        {"outcome": [4.0, 0.0]},
        {"outcome": [4.0, -1.0]},
        {"tau": [0.0]},
    ],
)
def test_a_fit_that_is_none_is_refused(change: dict) -> None:
    with pytest.raises(BadQuery):
        ask("residuals", responses=["t"], predictors=["x"], numbers=FIT | change)


def test_a_cox_query_above_the_dimension_is_refused() -> None:
    names = [f"x{i}" for i in range(20)]
    with pytest.raises(BadQuery, match="dimension"):
        ask(
            "cox",
            responses=["t", "e"],
            predictors=names,
            numbers={"coefficients": [0.0] * 20, "offset": [0.0], "grid.0": np.arange(1001.0)},
        )


def test_an_unknown_column_and_a_hazard_out_of_range_are_refused_at_the_kernel() -> None:
    with pytest.raises(BadQuery, match="column"):
        answer(table(), query=ask("gram", responses=["salary"]))
    numbers = {"coefficients": [0.0], "offset": [-28.0], "grid.0": (0.0, 9.0)}
    far = ask("cox", responses=["t", "y"], predictors=["x"], numbers=numbers)
    with pytest.raises(BadQuery, match="hazard"):
        answer(table(), query=far)
    tiny = ask("lloyd", responses=["x"], numbers={"centre": [0.0], "scale": [1e-200], "centres": [0.0]})
    with pytest.raises(BadQuery, match="scale"):
        answer(table(), query=tiny)


def test_columns_that_do_not_hold_what_the_kernel_needs_are_named() -> None:
    for asked in (
        ask("logistic", responses=["t"], predictors=["x"], numbers={"coefficients": [0.0, 0.0]}),
        ask("ordinal", responses=["x"], numbers={"thresholds": [0.0]}),
        ask("cox_stratified", responses=["x", "t"], predictors=["y"], numbers={"coefficients": [0.0]}),
        ask("rank_gram", responses=["t"], numbers=RISING | {"score.0": [-0.5, 0.5]}),
    ):
        with pytest.raises(DataError):
            answer(table(), query=asked)


@pytest.mark.parametrize(
    "bad", [np.array([[3.0]]), np.array([[math.inf]]), np.zeros((1, 2)), np.zeros((1, 1), dtype=np.float32)]
)
def test_a_table_that_is_not_what_it_declares_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError):
        Rows(names=("x",), values=bad, lower=(-1.0,), upper=(1.0,))


def test_policy_sees_the_smallest_cell_and_the_parameters() -> None:
    rows = table()
    events = int(rows.values[:, 0].sum())
    seen = answer(rows, query=valid()["logistic"])
    assert (seen.patients, seen.smallest_cell, seen.parameters) == (40, min(events, 40 - events), 2)
    lone = Rows(names=("x",), values=np.array([[0.0], [0.0], [5.0]]), lower=(-9.0,), upper=(9.0,))
    assert answer(lone, query=ask("table", responses=["x"], numbers={"grid.0": (-1.0, 1.0, 9.0)})).smallest_cell == 1


def test_missing_values_leave_only_queries_about_their_column() -> None:
    rows = Rows(names=("x", "y"), values=np.array([[1.0, np.nan], [2.0, 0.5]]), lower=(0.0, 0.0), upper=(4.0, 1.0))
    assert answer(rows, query=ask("gram", responses=["x"])).patients == 2
    assert answer(rows, query=ask("gram", responses=["x", "y"])).patients == 1


def test_fixed_point_keeps_every_digit_and_refuses_what_does_not_fit() -> None:
    rng = np.random.default_rng(14)
    values = rng.normal(size=(500, 3)) * [1e-12, 1.0, 1e11]
    exact = [sum(round(fixed_point.Fraction(v) * 2**64) for v in column) for column in values.T.tolist()]
    assert fixed_point.total(values).tolist() == exact
    assert fixed_point.once(values[0]).tolist() == [round(fixed_point.Fraction(v) * 2**64) for v in values[0].tolist()]
    for bad in (np.array([[2.0**41]]), np.array([[np.nan]]), np.array([[np.inf]])):
        with pytest.raises(DataError):
            fixed_point.total(bad)
    with pytest.raises(DataError):
        fixed_point.once(np.array([2.0**57]))
    for lie in ([-1 << 64], [1], [(2**22 + 1) << 64]):
        with pytest.raises(DataError):
            fixed_point.counts(lie)


def test_columns_are_named_as_terms_spell_them() -> None:
    pieces = (terms.Piece(variable="age", transform="log"), terms.Piece(variable="grade", level="g2"))
    asked = ask("gram", responses=[terms.column(*pieces).name, "age"])
    assert query.parse(asked.bytes()) == asked
