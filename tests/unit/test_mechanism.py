"""The mechanism: what it promises in numbers, and one ledger entry for each."""

import math
from decimal import Decimal

import pytest

from common import mechanism
from common.mechanism import Exact, NoisyGram, SampledStep

SHARE = SampledStep(
    noise_multiplier=Decimal(2),
    clip_norm=Decimal("0.5"),
    sampling_rate=Decimal("0.25"),
    hospitals=5,
    colluders=1,
    dimension=10_000,
    patients_per_step_max=100,
    share_bits=16,
    ring_bits=32,
)
GRAM = NoisyGram(
    noise_multiplier=Decimal(4),
    clip_norm=Decimal("1.5"),
    hospitals=5,
    colluders=1,
    dimension=2016,
    patients_max=100_000,
    share_bits=24,
    ring_bits=64,
)
EXACT = Exact(statistic="gram", ring_bits=128)


def test_the_constants_are_those_of_the_paper():
    rho = 2 * math.sqrt(10_000) / (math.sqrt(4) * 2**16)
    assert SHARE.honest == 4
    assert SHARE.rounding_slack == pytest.approx(rho, rel=1e-15)
    assert SHARE.numerical_slack == 1e-3
    assert SHARE.sensitivity == pytest.approx(0.5 * 1.001 / (1 - rho), rel=1e-15)


def test_honest_shares_alone_carry_the_whole_noise():
    deviation = math.sqrt(SHARE.honest) * 2**SHARE.share_bits * SHARE.grid_step
    assert deviation == pytest.approx(2 * SHARE.sensitivity, rel=1e-12)


def test_rounding_of_the_sum_is_within_the_slack():
    worst = SHARE.grid_step * math.sqrt(SHARE.dimension)  # the rounded sums of two neighbours differ by a step a coordinate
    assert SHARE.sensitivity >= float(SHARE.clip_norm) * (1 + SHARE.numerical_slack) + worst * (1 - 1e-9)


def test_a_clipped_sum_is_within_the_coordinate_limit():
    assert SHARE.coordinate_limit * SHARE.grid_step >= SHARE.patients_per_step_max * float(SHARE.clip_norm)


def test_a_gram_has_the_square_of_the_clipping_norm_and_no_sampling():
    assert (GRAM.clipped_norm, GRAM.sampling_rate) == (1.5**2, 1)
    assert 1.5**2 < GRAM.sensitivity < 1.5**2 * (1 + 1e-5)
    honest = math.sqrt(GRAM.honest) * 2**GRAM.share_bits * GRAM.grid_step
    assert honest == pytest.approx(4 * GRAM.sensitivity, rel=1e-12)
    assert GRAM.noise_deviation == pytest.approx(honest * math.sqrt(5 / 4), rel=1e-12)
    worst = GRAM.grid_step * math.sqrt(GRAM.dimension)
    assert GRAM.sensitivity >= GRAM.clipped_norm * (1 + GRAM.numerical_slack) + worst * (1 - 1e-9)


@pytest.mark.parametrize("one", [EXACT, SHARE, GRAM], ids=["exact", "step", "gram"])
def test_an_entry_reads_back(one):
    assert mechanism.from_entry(one.entry()) == one


@pytest.mark.parametrize(
    "change",
    [
        {"name": "laplace"},
        {"name": None},
        {"noise_multiplier": "2.0"},
        {"noise_multiplier": "NaN"},
        {"noise_multiplier": "inf"},
        {"noise_multiplier": "1E+99999999999"},
        {"noise_multiplier": ""},
        {"noise_multiplier": []},
        {"noise_multiplier": "x"},
        {"noise_multiplier": 2},
        {"clip_norm": None},
        {"sampling_rate": " 0.25"},
        {"hospitals": "5"},
        {"hospitals": "many"},
        {"hospitals": None},
        {"hospitals": 5.5},
        {"hospitals": float("inf")},
        {"hospitals": float("nan")},
        {"hospitals": [5]},
        {"rng": "python"},
        {"noise": "none"},
        {"clip_scope": "per-image"},
        {"unit": "image"},
        {"adjacency": "replace-one"},
        {"steps": 2},
        {"extra": 1},
    ],
    ids=str,
)
def test_an_entry_that_says_anything_else_is_refused(change):
    with pytest.raises(ValueError):
        mechanism.from_entry({**SHARE.entry(), **change})


@pytest.mark.parametrize("key", sorted(SHARE.entry()))
def test_an_entry_without_one_of_its_keys_is_refused(key):
    with pytest.raises(ValueError):
        mechanism.from_entry({name: value for name, value in SHARE.entry().items() if name != key})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "dp-sgd"},
        {"statistic": "mean"},
        {"sampling": "poisson"},
        {"sampling_rate": "1"},
        {"clip_scope": "per-patient-flat"},
        {"patients_max": "100000"},
        {"patients_max": True},
        {"steps": 2},
        {"noise_multiplier": "4.0"},
        {"clip_norm": 1.5},
    ],
    ids=str,
)
def test_a_grams_entry_that_says_anything_else_is_refused(change):
    with pytest.raises(ValueError):
        mechanism.from_entry({**GRAM.entry(), **change})


@pytest.mark.parametrize("key", sorted(GRAM.entry()))
def test_a_grams_entry_without_one_of_its_keys_is_refused(key):
    with pytest.raises(ValueError):
        mechanism.from_entry({name: value for name, value in GRAM.entry().items() if name != key})


@pytest.mark.parametrize(
    "entry", [{}, {"name": "none"}, {"name": "none", "statistic": "gram", "ring_bits": 128, "x": 1}, [], None]
)
def test_something_else_is_not_an_entry(entry):
    with pytest.raises(ValueError):
        mechanism.from_entry(entry)


def test_a_ring_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="too small"):
        mechanism.largest_share_bits(
            noise_multiplier=Decimal("0.001"), hospitals=64, colluders=0, patients_per_step_max=10**6, ring_bits=32
        )
