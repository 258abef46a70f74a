"""Fixed point for updates: no sum wraps, the error stays below its bound, and what was clipped is counted."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.crypto import masking, ring
from common.crypto.encoding import Encoding, decode, encode

FLOATS = (np.float32, np.float64)
RINGS = (32, 64)


def plan(bits=32, scale_bits=20, hospitals=3):
    return Encoding(bits=bits, scale_bits=scale_bits, hospitals=hospitals)


def summed(rows, encoding):
    vectors = [encode(row, encoding=encoding) for row in rows]
    return ring.total(vectors, dimension=len(vectors[0]), bits=encoding.bits)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", RINGS)
@pytest.mark.parametrize("hospitals", [1, 2, 3, 4, 7, 8, 9, 10, 50, 64, 65, 128, 129, 200])
def test_no_sum_of_extreme_vectors_wraps(hospitals, bits, dtype):
    encoding = plan(bits, hospitals=hospitals)
    largest = np.finfo(dtype).max
    row = np.array([largest, -largest, encoding.clip, -encoding.clip, 0.0], dtype)
    total = summed([row] * hospitals, encoding)
    most = hospitals * encoding.limit
    assert most < 2 ** (bits - 1)
    assert ring.decode(total, bits=bits)[:5].tolist() == [most, -most, most, -most, 0]


@pytest.mark.parametrize("hospitals", [1, 2, 8, 10, 50, 200, 65536])
@pytest.mark.parametrize("bits", RINGS)
def test_hardly_any_of_the_range_is_given_away(bits, hospitals):
    encoding = plan(bits, hospitals=hospitals)
    assert encoding.magnitude_bits == bits - 1 - math.ceil(math.log2(hospitals))
    assert 2**encoding.magnitude_bits * (1 - 2.0**-15) <= encoding.limit < 2**encoding.magnitude_bits
    exact = (np.float32 if bits == 32 else np.float64)(encoding.limit)
    assert int(exact) == encoding.limit


@given(
    bits=st.sampled_from(RINGS),
    dtype=st.sampled_from(FLOATS),
    scale_bits=st.integers(-8, 30),
    rows=st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.floats(-100, 100, width=32), min_size=n, max_size=n), min_size=1, max_size=9)
    ),
)
def test_the_error_of_a_sum_is_within_its_bound(bits, dtype, scale_bits, rows):
    encoding = Encoding(bits=bits, scale_bits=scale_bits, hospitals=len(rows))
    values, clipped = decode(summed(np.array(rows, dtype), encoding), encoding=encoding)
    inside = [[min(max(value, -encoding.clip), encoding.clip) for value in row] for row in rows]
    assert clipped == sum(abs(value) > encoding.clip for row in rows for value in row)
    for value, column in zip(values, zip(*inside, strict=True), strict=True):
        exact = sum(map(Fraction, column))
        slack = Fraction(encoding.error_most) + (abs(exact) + 1) * Fraction(1, 2**52) * (bits == 64)
        assert abs(Fraction(float(value)) - exact) <= slack


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", RINGS)
def test_values_round_to_nearest_and_ties_to_even(bits, dtype):
    row = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 0.51, -7.75], dtype)
    words = encode(row, encoding=plan(bits, 0))
    assert ring.decode(words, bits=bits).tolist() == [0, 2, 2, 0, -2, 0, 1, -8, 0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", RINGS)
@pytest.mark.parametrize("past", [-1, 0, 1, 5])
def test_borders_of_chunks_change_nothing(bits, dtype, past):
    encoding = plan(bits, 16)
    size = ring.chunk_rows(bits=bits) * 2 + past
    row = np.random.default_rng(past + 1).normal(0, 0.1, size).astype(dtype)
    row[:: size // 3] = 1e30
    words = encode(row, encoding=encoding)
    wanted = [round(min(value, encoding.clip) * 2.0**16) for value in row.tolist()]  # a power of two: exact
    assert ring.decode(words, bits=bits).tolist() == [*wanted, int((row > 1e9).sum())]
    values, _ = decode(words, encoding=encoding)
    assert values.tolist() == [value / 2**16 for value in wanted]


@pytest.mark.parametrize("bits", RINGS)
def test_the_count_of_clipped_values_sums_over_hospitals_through_the_masks(bits):
    encoding = plan(bits)
    rows = {"a": [0.25, 1e30, -1e30], "b": [0.5, 0.0, -1e30], "c": [-0.75, 0.0, 0.0]}
    pairs = {frozenset(pair): bytes([at]) * 32 for at, pair in enumerate(["ab", "ac", "bc"])}
    uploads = []
    for me, row in rows.items():
        words = encode(np.array(row), encoding=encoding)
        masking.add_masks(words, me=me, seeds={peer: pairs[frozenset((me, peer))] for peer in rows if peer != me}, bits=bits)
        uploads.append(words)
    values, clipped = decode(ring.total(uploads, dimension=4, bits=bits), encoding=encoding)
    assert clipped == 3
    assert values.tolist() == [0.0, encoding.clip, -2 * encoding.clip]


def test_a_huge_count_is_clipped_and_wraps_nothing():
    encoding = plan(32, 0, hospitals=65536)
    words = encode(np.full(40_000, 1e9), encoding=encoding)
    assert int(words[-1]) == encoding.limit == 2**15 - 1
    assert 65536 * int(words[-1]) < 2**31


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", RINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 40_000, -1])
def test_what_is_not_finite_is_refused_in_any_chunk(bits, dtype, bad, at):
    row = np.zeros(70_000, dtype)
    row[at] = bad
    with pytest.raises(ValueError, match="not finite"):
        encode(row, encoding=plan(bits))


@pytest.mark.parametrize(
    "values", [np.zeros(3, np.int64), np.zeros(3, object), np.zeros((2, 2)), np.zeros(()), np.zeros(3, np.float16)], ids=str
)
def test_another_type_or_shape_is_refused(values):
    with pytest.raises(TypeError):
        encode(values, encoding=plan())


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 128},
        {"bits": 16},
        {"bits": 32.0},
        {"scale_bits": 65},
        {"scale_bits": -65},
        {"scale_bits": 1.5},
        {"hospitals": 0},
        {"hospitals": -1},
        {"hospitals": 65537},
        {"hospitals": True},
    ],
    ids=str,
)
def test_a_plan_out_of_range_is_refused(change):
    with pytest.raises(ValueError):
        plan(**change)


@pytest.mark.parametrize("bits", RINGS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_empty_update_is_a_count_alone(bits, dtype):
    words = encode(np.zeros(0, dtype), encoding=plan(bits))
    values, clipped = decode(words, encoding=plan(bits), dtype=dtype)
    assert (len(words), len(values), values.dtype, clipped) == (1, 0, dtype, 0)


@pytest.mark.parametrize("words", [np.zeros(0, np.uint32), np.zeros(3, np.uint64), np.zeros((3, 2), np.uint32)], ids=str)
def test_a_sum_of_another_ring_is_refused(words):
    with pytest.raises(ValueError, match="count at its end"):
        decode(words, encoding=plan(32))


def test_an_update_is_not_changed():
    row = np.array([1.0, 1e30])
    encode(row, encoding=plan())
    assert row.tolist() == [1.0, 1e30]


def test_float32_holds_a_sum_to_one_rounding():
    encoding = plan(32, 20)
    words = summed(np.array([[1.1, -1000.3], [2.7, 5.0]], np.float32), encoding)
    exact, _ = decode(words, encoding=encoding)
    values, _ = decode(words, encoding=encoding, dtype=np.float32)
    assert values.dtype == np.float32
    assert np.abs(values - exact).max() <= np.abs(exact).max() * 2.0**-24
