"""Laws of irrational probabilities drawn from words: the thresholds to every bit, and what decides on one of them."""

import mpmath
import numpy as np
import pytest

from common.crypto import thresholds

ONES = 2**64 - 1


def sums(law, bits):
    """P(X <= k) for as many k as the law has thresholds, by mpmath."""
    if law is thresholds.success_exp_1:
        return [mpmath.e**-1]
    weights = [mpmath.exp(-mpmath.mpf(k * k) / 2) for k in range(200)]
    whole = (mpmath.jtheta(3, 0, mpmath.exp(mpmath.mpf(-1) / 2)) + 1) / 2  # another formula for the same sum
    return [mpmath.fsum(weights[: k + 1]) / whole for k in range(len(law(bits)))]


@pytest.mark.parametrize("law", [thresholds.success_exp_1, thresholds.half_gaussian])
@pytest.mark.parametrize("bits", [64, 128, 192, 512, 1024])
def test_floors_are_those_of_mpmath_to_every_bit(law, bits):
    with mpmath.workprec(4 * bits + 500):
        assert list(law(bits)) == [int(mpmath.floor(one * 2**bits)) for one in sums(law, bits)]


def test_the_last_threshold_leaves_nothing_out():
    for bits in (64, 128, 1024):
        assert thresholds.half_gaussian(bits)[-1] == 2**bits - 1  # a word there is a tie, and more words decide


def never(_n):
    raise AssertionError("no further word is needed")


def test_a_word_beside_a_threshold_decides_alone():
    floors = [one for one in thresholds.half_gaussian(64) if one < ONES]
    below = thresholds.drawn(np.array([one - 1 for one in floors], np.uint64), thresholds.half_gaussian, more=never)
    above = thresholds.drawn(
        np.array([one + 1 for one in floors if one + 1 < ONES], np.uint64), thresholds.half_gaussian, more=never
    )
    assert below.tolist() == list(range(len(floors)))
    assert above.tolist() == list(range(1, len(above) + 1))
    assert thresholds.drawn(np.array([0], np.uint64), thresholds.half_gaussian, more=never).tolist() == [0]


@pytest.mark.parametrize("law", [thresholds.success_exp_1, thresholds.half_gaussian])
@pytest.mark.parametrize("ties", [1, 2, 3])
@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("at", [0, -1])
def test_a_word_on_a_threshold_is_decided_by_the_first_further_word_that_differs(law, ties, step, at):
    """The threshold's own bits for `ties` words, then a word beside it."""
    bits = 64 * (ties + 1)
    number = [one for one, known in enumerate(law(64)) if known < ONES][at]
    threshold = law(bits)[number] + step
    said = [threshold >> (bits - 64 * (word + 1)) & ONES for word in range(ties + 1)]
    asked = iter(said[1:])
    found = thresholds.drawn(np.array([5, said[0], 7], np.uint64), law, more=lambda _n: np.array([next(asked)], np.uint64))
    assert found.tolist() == [0, number + int(step > 0), 0]
    assert next(asked, None) is None  # as many as it takes


def test_no_word_is_no_draw():
    assert thresholds.drawn(np.array([], np.uint64), thresholds.half_gaussian, more=never).shape == (0,)


def test_a_word_of_ones_lies_beyond_all_thresholds_of_its_length():
    found = thresholds.drawn(np.array([ONES], np.uint64), thresholds.half_gaussian, more=lambda n: np.zeros(n, np.uint64))
    exact = sum(one >> 64 < ONES or one & ONES == 0 for one in thresholds.half_gaussian(128))
    assert found.tolist() == [exact]
