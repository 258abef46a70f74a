"""Any text is a formula or is refused by name; columns of terms keep the Gram's bits for any partition."""

from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from client import summarise
from common import formula, moments, terms
from common.errors import ConfigError
from tests import tables
from tests.tables import FACTORS, NUMBERS

TOKENS = st.sampled_from([*"abcyx~+*:()- ", "log(", "square(", "~ ", " - ", "__", "1", "\u0430", "\n"])


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(TOKENS, max_size=40).map("".join)))
def test_any_text_is_a_formula_or_is_refused_by_name(text: str) -> None:
    try:
        held = formula.parse(text)
    except ConfigError:
        return
    assert held.terms
    assert formula.parse(str(held)) == held
    assert all(atom.transform in {"", *formula.TRANSFORMS} for term in held.terms for atom in term)


sums = st.recursive(
    st.sampled_from(["grade", "sex", "age", "x", "log(age)", "square(age)"]),
    lambda inner: st.tuples(inner, st.sampled_from([" + ", " * "]), inner).map(lambda parts: f"({''.join(parts)})"),
    max_leaves=3,
)


@settings(max_examples=40, deadline=None)
@given(sums, st.lists(st.integers(0, 4), min_size=30, max_size=30))
def test_gram_of_any_models_columns_is_the_same_bits_for_any_partition(right: str, where: list[int]) -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, models=[f"y ~ {right}"]), tables.synthetic(30)
    assert tables.pooled(frame, held=held, hospitals=where) == tables.pooled(frame, held=held, hospitals=[0] * 30)


ends = st.decimals(Decimal(-10000), Decimal(10000), places=3)


@settings(max_examples=100, deadline=None)
@given(st.tuples(ends, ends).filter(lambda pair: pair[0] < pair[1]), st.integers(0, 2**32))
def test_no_value_inside_the_declared_bounds_leaves_those_of_its_terms(pair: tuple[Decimal, Decimal], seed: int) -> None:
    low, high = map(float, pair)
    transforms = ["square", *(["log"] if low > 0 else []), *(["sqrt"] if low >= 0 else []), *(["log1p"] if low > -1 else [])]
    models = [f"y ~ {transform}(v) * grade * v" for transform in transforms]
    held = tables.study({"y": (-50, 50), "v": (*pair, *transforms)}, factors=FACTORS, models=models)
    frame = tables.synthetic(40)
    frame["v"] = np.clip(low + (high - low) * np.random.default_rng(seed).random(40), low, high)
    frame.loc[:1, "v"] = [low, high]
    z = summarise.complete_rows(tables.cohort(frame, held=held), study=held)
    assert len(z) == 40
    assert int(np.abs(z).max()) <= 2**52 + 1
    assert len(moments.scales(held)) == len(held.design()) == len({column.name for column in held.design()})
    assert all(isinstance(column, terms.Column) for column in held.design())
