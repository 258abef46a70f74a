"""The last step before the wall: what the receipt promises is in the bytes, or nothing leaves."""

import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from client.mask import mask
from common.contribution import Contribution
from common.crypto import masking, ring
from common.errors import InternalError
from common.ledger.receipt import Receipt
from common.mechanism import Exact, SampledStep

EXACT = Exact(statistic="gram", ring_bits=64)
SEEDS = {"a": b"1" * 32, "c": b"2" * 32}


def share(dimension, *, bits=8):
    return SampledStep(
        noise_multiplier=Decimal(1),
        clip_norm=Decimal(1),
        sampling_rate=Decimal(1),
        hospitals=3,
        colluders=1,
        dimension=dimension,
        patients_per_step_max=4,
        share_bits=bits,
        ring_bits=32,
    )


def masked(values, mechanism, *, receipt=None, seeds=SEEDS):
    made = Contribution(values=values, mechanism=mechanism)
    charged = Receipt(reservation="r/1/b", study="0" * 64, mechanism=receipt or mechanism, sequence=3)
    return mask(made, receipt=charged, me="b", seeds=seeds)


def unmasked(data, mechanism, *, dimension):
    words = ring.from_bytes(data, dimension=dimension, bits=mechanism.ring_bits)
    for peer, seed in SEEDS.items():
        stream = masking.stream(seed, dimension=dimension, bits=mechanism.ring_bits)
        words = ring.subtract(words, stream) if peer > "b" else ring.add(words, stream)
    return ring.decode(words, bits=mechanism.ring_bits)


@pytest.mark.parametrize("bits", [32, 64, 128])
def test_an_exact_statistic_is_masked_and_nothing_else(bits):
    mechanism = Exact(statistic="gram", ring_bits=bits)
    values = np.array([0, 1, -1, 2**31 - 1, -(2**31)], object if bits == 128 else np.int64)
    data = masked(values.copy(), mechanism)
    assert len(data) == 5 * bits // 8
    assert unmasked(data, mechanism, dimension=5).tolist() == values.tolist()
    assert data != ring.to_bytes(ring.encode(values, bits=bits))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_vector_of_many_chunks_is_masked_throughout(bits):
    mechanism = Exact(statistic="gram", ring_bits=bits)
    values = np.arange(-50_000, 50_000, dtype=np.int64)
    data = masked(values, mechanism)
    assert (unmasked(data, mechanism, dimension=len(values)) == values).all()
    raw = np.frombuffer(data, np.uint8) == np.frombuffer(ring.to_bytes(ring.encode(values, bits=bits)), np.uint8)
    assert raw.mean() < 0.01  # one byte in 256 stays by chance
    assert values[0] == -50_000


@pytest.mark.parametrize(
    "other",
    [
        EXACT,
        replace(share(4), noise_multiplier=Decimal(2)),
        replace(share(4), share_bits=9),
        replace(share(4), dimension=5),
        replace(share(4), sampling_rate=Decimal("0.1")),
    ],
    ids=str,
)
def test_a_receipt_for_another_mechanism_masks_nothing(other):
    with pytest.raises(InternalError, match="receipt"):
        masked(np.zeros(4), share(4), receipt=other)


@pytest.mark.parametrize(("values", "mechanism"), [(np.zeros(4, np.int64), EXACT), (np.zeros(4), share(4))], ids=str)
def test_without_a_peer_nothing_leaves(values, mechanism):
    with pytest.raises(InternalError, match="without a mask"):
        masked(values, mechanism, seeds={})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sum_that_is_not_finite_is_refused(bad):
    with pytest.raises(InternalError, match="not finite"):
        masked(np.array([0.0, bad, 0.0, 0.0]), share(4))


@pytest.mark.parametrize(
    "values",
    [np.zeros(4, np.int64), np.zeros(4, object), np.zeros(3), np.zeros(5), np.zeros(0)],
    ids=lambda v: f"{v.dtype}{v.size}",
)
def test_a_clipped_sum_of_another_type_or_length_is_refused(values):
    with pytest.raises(InternalError, match="type or length"):
        masked(values, share(4))


@pytest.mark.parametrize("values", [np.array([1.5]), np.array([1.0]), np.array([np.nan]), np.array(["x"], object)], ids=repr)
def test_an_exact_statistic_that_is_no_integer_is_refused(values):
    with pytest.raises(TypeError):
        masked(values, EXACT)


def test_an_exact_statistic_that_does_not_fit_the_ring_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        masked(np.array([2**31], np.int64), Exact(statistic="gram", ring_bits=32))


def test_a_huge_sum_is_clamped_before_the_noise():
    mechanism = share(2000)
    values = np.where(np.arange(2000) % 2 == 0, 1e200, -1e200)
    seen = unmasked(masked(values, mechanism), mechanism, dimension=2000)
    excess = seen - np.sign(values).astype(np.int64) * mechanism.coordinate_limit
    assert np.abs(excess).max() <= 12 * 2**mechanism.share_bits
    assert (excess > 0).any()
    assert (excess < 0).any()  # noise after the clamp goes both ways; a clamp after the noise would cut one side off


@pytest.mark.statistical
@pytest.mark.parametrize(("bits", "n"), [(6, 4000), (12, 200_000)])
def test_the_noise_of_the_receipt_is_in_the_bytes(bits, n):
    mechanism = share(n, bits=bits)
    rounded = np.arange(n, dtype=np.int64) % 41 - 20
    noise = unmasked(masked(rounded * mechanism.grid_step, mechanism), mechanism, dimension=n) - rounded
    variance = 4.0**bits
    # thresholds of 6 standard errors: a false alarm in 5e8 runs each
    assert abs(noise.mean()) < 6 * math.sqrt(variance / n)
    assert abs(noise.var() / variance - 1) < 6 * math.sqrt(2 / n)
    cells = np.arange(-3 * 2**bits, 3 * 2**bits + 1, max(1, 2**bits // 4))
    support = np.arange(-12 * 2**bits, 12 * 2**bits + 1)
    weights = np.exp(-(support.astype(np.float64) ** 2) / (2 * variance))
    expected = np.histogram(support, cells, weights=weights)[0] / weights.sum() * n
    inside = np.histogram(noise, cells)[0]
    counts, wanted = np.append(inside, n - inside.sum()), np.append(expected, n - expected.sum())
    assert stats.chisquare(counts, wanted).pvalue > 1e-8


def test_two_maskings_of_one_sum_carry_different_noise():
    mechanism = share(64, bits=16)
    assert masked(np.zeros(64), mechanism) != masked(np.zeros(64), mechanism)
