"""For any table and any split of it into hospitals the pooled integer Gram is the same, and it never leaves the ring."""

from decimal import Decimal
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from common import fixed_point, moments
from common.study import Study
from common.variable import Variable
from common.wanted import Regression, Statistics


def study_of(bounds: list[tuple[float, float]]) -> Study:
    """A study with these columns only; the parts that the grid does not read are left out."""
    variables = tuple(
        Variable(name=f"v{i}", source="clinical", unit="1", lower=Decimal(repr(low)), upper=Decimal(repr(high)))
        for i, (low, high) in enumerate(bounds)
    )
    names = tuple(v.name for v in variables)
    statistics = Statistics(correlation=names, regression=Regression(outcome=names[0], predictors=names[1:]))
    return Study.model_construct(variables=variables, statistics=statistics)


ends = st.floats(-1e9, 1e9).map(lambda v: round(v, 6))
interval = st.tuples(ends, ends).filter(lambda pair: pair[0] < pair[1])


@st.composite
def tables(draw: st.DrawFn) -> tuple[Study, np.ndarray]:
    bounds = draw(st.lists(interval, min_size=2, max_size=5))
    rows = draw(st.integers(1, 40))
    low, high = np.array(bounds).T
    unit = np.random.default_rng(draw(st.integers(0, 2**32))).random((rows, len(bounds)))
    corner = draw(st.sampled_from(["inside", "corners"]))
    unit = np.rint(unit) if corner == "corners" else unit
    return study_of(bounds), np.clip(low * (1 - unit) + high * unit, low, high)


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_gram_is_the_same_bits_for_any_partition(case: tuple[Study, np.ndarray], data: st.DataObject) -> None:
    study, x = case
    z = moments.fixed_point(x, study=study)
    hospital = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(z), max_size=len(z))))
    parts = [moments.gram(z[hospital == h]) for h in range(5)]
    assert sum(parts[1:], parts[0]).tolist() == moments.gram(z).tolist()


@settings(max_examples=60, deadline=None)
@given(tables())
def test_moments_are_those_of_the_grid_exactly(case: tuple[Study, np.ndarray]) -> None:
    study, x = case
    held = moments.from_total(moments.gram(moments.fixed_point(x, study=study)).tolist(), study=study)
    grid = moments.scales(study)
    columns = [[Fraction(round(Fraction(v) * Fraction(2) ** s.exponent)) / Fraction(2) ** s.exponent for v in x[:, j].tolist()]
               for j, s in enumerate(grid)]  # fmt: skip
    for i, name in enumerate(study.columns()):
        mean = sum(columns[i]) / len(x)
        assert held.mean(name) == mean
        assert held.scatter(name, study.columns()[0]) == sum(
            (a - mean) * b for a, b in zip(columns[i], columns[0], strict=True)
        )


@settings(max_examples=200, deadline=None)
@given(interval)
def test_no_declared_bound_can_overflow_the_ring(bounds: tuple[float, float]) -> None:
    study = study_of([bounds, (0.0, 1.0)])
    scale = moments.scales(study)[0]
    corners = moments.fixed_point(np.array([[scale.lower, 0.0], [scale.upper, 1.0]]), study=study)
    largest = max(abs(int(v)) for v in corners[:, 0])
    assert 2**50 < largest <= 2**52 + 1
    one_row = [abs(int(v)) for v in moments.gram(corners[corners[:, 0].argmax()][None])]
    assert max(one_row) * fixed_point.ROWS_MOST < 2**127


def test_largest_table_of_extremes_is_exact_and_inside_the_ring() -> None:
    z = np.full((2**14, 1), 2**52 + 1)
    block = moments.gram(z)
    assert block.tolist() == [2**14, 2**14 * (2**52 + 1), 2**14 * (2**52 + 1) ** 2]
    whole = (block * (fixed_point.ROWS_MOST // 2**14)).tolist()
    assert whole[2] == fixed_point.ROWS_MOST * (2**52 + 1) ** 2 < 2**127


def test_digit_products_of_the_largest_table_stay_exact_in_float64() -> None:
    digit = 2 ** (moments.DIGIT_BITS - 1)
    assert digit * digit * fixed_point.ROWS_MOST <= 2**53
    assert moments.DIGITS * digit * digit * fixed_point.ROWS_MOST < 2**63
