"""For any rows and any split of them into hospitals a row kernel's integers add up to the same bits, inside the ring."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from client.kernels.answer import answer
from client.kernels.rows import Rows
from common.query import Query, ask

number = st.floats(-20, 20, allow_nan=False)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Rows, Query]:
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    corner = draw(st.booleans())
    x = rng.choice([-7.0, 7.0], size=(n, 2)) if corner else rng.uniform(-7, 7, (n, 2))
    y, t = rng.integers(0, 2, n) * 1.0, rng.integers(0, 5, n) * 1.0
    x[rng.random(n) < 0.1, 0] = np.nan
    rows = Rows(names=("y", "t", "a", "b"), values=np.column_stack([y, t, x]), lower=(0, 0, -7, -7), upper=(1, 4, 7, 7))
    b = draw(st.lists(number, min_size=3, max_size=3))
    small = [v / 4 for v in b[:2]]
    grid = (-0.5, 0.5, 2.5, 4.5)
    asked = draw(
        st.sampled_from(
            [
                ask("logistic", responses=["y"], predictors=["a", "b"], numbers={"coefficients": b}),
                ask(
                    "firth", responses=["y"], predictors=["a", "b"], numbers={"coefficients": b, "inverse": [1, 0, 0, 1, 0, 1]}
                ),
                ask(
                    "ordinal",
                    responses=["t"],
                    predictors=["a"],
                    numbers={"thresholds": [-2, -1, 0.5, 3], "coefficients": small[:1]},
                ),
                ask(
                    "cox",
                    responses=["t", "y"],
                    predictors=["a", "b"],
                    numbers={"coefficients": small, "offset": [1.5], "grid.0": grid},
                ),
                ask("gram", responses=["a", "b", "t"]),
                ask("exact_gram", responses=["t"], predictors=["a", "b"]),
                ask("table", responses=["t", "y"], numbers={"grid.0": grid, "grid.1": grid}),
                ask("lloyd", responses=["a", "b"], numbers={"centre": b[:2], "scale": [2, 3], "centres": [-1, 0, 1, 2, 0, 0]}),
                ask(
                    "mixture",
                    responses=["a"],
                    numbers={
                        "centre": b[:1],
                        "scale": [2],
                        "weights": [0.3, 0.7],
                        "means": [-1, 1],
                        "variances": [0.5, 2],
                    },
                ),
            ]
        )
    )
    return rows, asked


@settings(max_examples=150, deadline=None)
@given(cases(), st.data())
def test_any_split_gives_the_same_bits(case: tuple[Rows, Query], data: st.DataObject) -> None:
    rows, asked = case
    of = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows.values), max_size=len(rows.values))))
    order = np.random.default_rng(1).permutation(len(rows.values))
    whole = answer(rows, query=asked).values
    shuffled = Rows(names=rows.names, values=rows.values[order], lower=rows.lower, upper=rows.upper)
    parts = [answer(shuffled.part(of[order] == h), query=asked).values for h in range(4)]
    assert sum(parts[1:], parts[0]).tolist() == whole.tolist()
    assert all(abs(value) < 2**126 for value in whole)
