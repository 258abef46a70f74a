"""For every study that fits a ring, the sum of clipped and noised vectors stays inside it."""

import math
from decimal import Decimal

from hypothesis import assume, given
from hypothesis import strategies as st

from common import mechanism
from common.mechanism import SHARE_BITS_MOST, TAIL, SampledStep

CHOICES = st.fixed_dictionaries(
    {
        "noise_multiplier": st.decimals("0.05", "64", places=3),
        "hospitals": st.integers(2, 64),
        "colluders": st.integers(0, 62),
        "patients_per_step_max": st.integers(1, 1_000_000),
    }
)


def share(chosen, *, bits, clip_norm=Decimal(1), dimension=1):
    return SampledStep(
        **chosen, clip_norm=clip_norm, sampling_rate=Decimal(1), dimension=dimension, share_bits=bits, ring_bits=32
    )


@given(chosen=CHOICES, clip_norm=st.decimals("0.001", "1000", places=3))
def test_the_sum_never_leaves_the_ring(chosen, clip_norm):
    assume(chosen["hospitals"] - chosen["colluders"] >= 2)
    try:
        bits = mechanism.largest_share_bits(**chosen, ring_bits=32)
    except ValueError:
        return
    one = share(chosen, bits=bits, clip_norm=clip_norm)
    clamped = chosen["hospitals"] * (one.coordinate_limit + 0.5)
    noise = TAIL * math.sqrt(chosen["hospitals"]) * 2**bits
    assert 8 <= bits <= SHARE_BITS_MOST
    assert clamped + noise <= 2**31 * (1 + 1e-9) + chosen["hospitals"]


@given(chosen=CHOICES)
def test_one_more_bit_would_not_fit(chosen):
    assume(chosen["hospitals"] - chosen["colluders"] >= 2)
    try:
        bits = mechanism.largest_share_bits(**chosen, ring_bits=32)
    except ValueError:
        return
    assume(bits < SHARE_BITS_MOST)
    everyone = chosen["patients_per_step_max"] * chosen["hospitals"]
    honest = chosen["hospitals"] - chosen["colluders"]
    scale = 2 ** (bits + 1) / float(chosen["noise_multiplier"])
    needed = everyone * math.sqrt(honest) * scale + TAIL * math.sqrt(chosen["hospitals"]) * 2 ** (bits + 1)
    assert needed > 2**31 - chosen["hospitals"]


@given(
    chosen=CHOICES, bits=st.integers(8, 24), clip_norm=st.decimals("0.001", "1000", places=3), dimension=st.integers(1, 10**7)
)
def test_every_entry_reads_back(chosen, bits, clip_norm, dimension):
    one = share(chosen, bits=bits, clip_norm=clip_norm, dimension=dimension)
    assert mechanism.from_entry(one.entry()) == one
