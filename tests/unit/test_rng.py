"""Claims about the secret draws: exact, within the accountant's rate, and deaf to every seed."""

from decimal import Decimal

import numpy as np
import pytest
import torch

from common.crypto import rng


@pytest.mark.parametrize("share_bits", [0, 2, 5])
def test_discrete_gaussian_has_the_exact_probabilities(share_bits):
    n, scale = 200_000, 2**share_bits
    drawn = rng.discrete_gaussian(n, share_bits=share_bits)
    support = np.arange(-8 * scale, 8 * scale + 1)
    mass = np.exp(-(support**2) / (2 * scale**2))
    expected = n * mass / mass.sum()
    seen = np.bincount(np.clip(drawn, support[0], support[-1]) - support[0], minlength=len(support))
    common = expected > 10
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    freedom = common.sum() - 1
    assert abs(statistic - freedom) < 6 * np.sqrt(2 * freedom)  # false alarm below 1e-6


@pytest.mark.parametrize("share_bits", [16, 24])
def test_large_shares_have_the_claimed_standard_deviation(share_bits):
    drawn = rng.discrete_gaussian(200_000, share_bits=share_bits) / 2.0**share_bits
    assert drawn.var() == pytest.approx(1, abs=6 * np.sqrt(2 / 200_000))
    assert drawn.mean() == pytest.approx(0, abs=6 / np.sqrt(200_000))


def test_a_draw_longer_than_one_block_is_complete():
    n = 4 * rng.BLOCK + 1000
    drawn = rng.discrete_gaussian(n, share_bits=16)
    assert drawn.shape == (n,)
    assert drawn.dtype == np.int64
    assert len(np.unique(drawn[: n // 2])) > 50_000
    assert drawn[n // 2 :].std() == pytest.approx(2**16, rel=0.02)


@pytest.mark.parametrize(("n", "share_bits"), [(-1, 16), (1, -1), (1, 25)])
def test_discrete_gaussian_refuses_what_it_cannot_draw_exactly(n, share_bits):
    with pytest.raises(ValueError):
        rng.discrete_gaussian(n, share_bits=share_bits)


def test_no_seed_repeats_noise_or_samples():
    def draw():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        return rng.discrete_gaussian(64, share_bits=20), rng.poisson_sample(256, rate=Decimal("0.5")), rng.secret_bytes(16)

    (noise, sample, secret), (noise_again, sample_again, secret_again) = draw(), draw()
    assert not np.array_equal(noise, noise_again)
    assert not np.array_equal(sample, sample_again)
    assert secret != secret_again


def test_drawing_does_not_move_torch_or_numpy():
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    rng.discrete_gaussian(1000, share_bits=16)
    rng.poisson_sample(1000, rate=Decimal("0.3"))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_two_streams_never_agree_and_one_never_repeats():
    stream = rng.Stream()
    first, second, other = stream.words(64), stream.words(64), rng.Stream().words(64)
    assert len(np.unique(np.concatenate([first, second, other]))) == 192


def test_a_stream_cannot_be_seeded():
    with pytest.raises(TypeError):
        rng.Stream(b"0" * 32)


@pytest.mark.parametrize("bound", [2, 3, 4, 7])
def test_one_in_so_many_is_set(bound):
    flags = rng.Stream().one_in(60_000, bound=bound)
    expected, variance = 60_000 / bound, 60_000 * (bound - 1) / bound**2
    assert abs(flags.sum() - expected) <= 6 * np.sqrt(variance)


@pytest.mark.parametrize("bound", [3, 5, 2**63 - 25])
def test_words_that_would_bias_one_in_so_many_are_drawn_anew(bound, monkeypatch):
    whole = 2**64 // bound * bound
    said = iter([[whole, 2**64 - 1, whole - 1, 0], [2**64 - 1, 2**64 // bound], [2**64 // bound - 1]])
    stream = rng.Stream()
    monkeypatch.setattr(rng.Stream, "words", lambda _self, n: np.array(next(said), np.uint64)[:n])
    assert stream.one_in(4, bound=bound).tolist() == [True, False, False, True]


@pytest.mark.parametrize("rate", [Decimal("0.02"), Decimal("0.5"), Decimal("0.999")])
def test_poisson_sample_takes_the_declared_share(rate):
    n = 100_000
    share = rng.poisson_sample(n, rate=rate).mean()
    assert share == pytest.approx(float(rate), abs=6 * float((rate * (1 - rate)).sqrt()) / n**0.5)


@pytest.mark.parametrize(("rate", "count"), [(Decimal(1), 1000), (Decimal(0), 0), (Decimal("1e-30"), 0)])
def test_extreme_rates_take_everybody_or_nobody(rate, count):
    assert rng.poisson_sample(1000, rate=rate).sum() == count


def test_nobody_to_sample_is_an_empty_sample():
    assert rng.poisson_sample(0, rate=Decimal("0.5")).shape == (0,)
    assert rng.discrete_gaussian(0, share_bits=16).shape == (0,)


@pytest.mark.parametrize("rate", [Decimal("1.01"), Decimal("-0.1"), Decimal("nan"), Decimal("inf")])
def test_a_rate_outside_zero_and_one_is_refused(rate):
    with pytest.raises(ValueError):
        rng.poisson_sample(3, rate=rate)
