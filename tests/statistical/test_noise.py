"""Claims about the noise at the size at which it is used: every share and their sum have exactly the claimed distribution."""

from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from common.crypto import rng

pytestmark = pytest.mark.statistical

N = 1_000_000
SURE = 1e-6  # a right sampler fails a test here once in a million runs


def chi_squared(drawn, share_bits):
    """Return p of 200 equiprobable bins of the continuous limit, exact to 1e-9 at 10 bits and more."""
    random = np.random.default_rng(0)
    smooth = (drawn + random.random(len(drawn)) - 0.5) / 2.0**share_bits
    counts = np.histogram(smooth, stats.norm.ppf(np.linspace(0, 1, 201)))[0]
    return stats.chisquare(counts).pvalue


@pytest.mark.parametrize("share_bits", [10, 16, 20, 24])
def test_a_share_is_the_claimed_gaussian(share_bits):
    assert chi_squared(rng.discrete_gaussian(N, share_bits=share_bits), share_bits) > SURE


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_one_percent_too_little_or_too_much_would_be_noticed(factor):
    assert chi_squared(rng.discrete_gaussian(N, share_bits=16) * factor, 16) < SURE


@pytest.mark.parametrize("share_bits", [0, 2, 6])
def test_every_integer_has_its_exact_probability(share_bits):
    scale = 2**share_bits
    support = np.arange(-8 * scale, 8 * scale + 1)
    mass = np.exp(-(support**2) / (2 * scale**2))
    expected = N * mass / mass.sum()
    drawn = rng.discrete_gaussian(N, share_bits=share_bits)
    seen = np.bincount(np.clip(drawn, support[0], support[-1]) - support[0], minlength=len(support))
    enough = expected > 20
    statistic = ((seen - expected)[enough] ** 2 / expected[enough]).sum()
    assert stats.chi2.sf(statistic, enough.sum()) > SURE


def test_samples_do_not_depend_on_one_another():
    drawn = rng.discrete_gaussian(N, share_bits=16) / 2.0**16
    for lag in (1, 2, 200):
        assert abs((drawn[lag:] * drawn[:-lag]).mean()) < 5 / np.sqrt(N)
    assert abs((rng.discrete_gaussian(N, share_bits=16) & 1).mean() - 0.5) < 5 / np.sqrt(4 * N)


def test_three_honest_shares_add_up_to_the_planned_noise():
    total = sum(rng.discrete_gaussian(N, share_bits=16) for _ in range(3))
    assert (total / 2.0**16).var() == pytest.approx(3, abs=5 * 3 * np.sqrt(2 / N))


def test_poisson_batches_are_binomial_and_patients_independent():
    batches = np.array([rng.poisson_sample(400, rate=Decimal("0.25")) for _ in range(2000)])
    sizes = batches.sum(1)
    dispersion = ((sizes - 100) ** 2).sum() / 75
    assert SURE < stats.chi2.sf(dispersion, 2000) < 1 - SURE
    correlation = np.corrcoef(batches[:, 0], batches[:, 1])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(2000)
