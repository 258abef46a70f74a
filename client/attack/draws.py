"""Draw noise and samples for the auditor, as this hospital's code draws them for a round; no patient and no ledger is near.

`python -m client.attack.draws ROUNDS` writes them to standard output; `motet-audit attack conformance` starts it and judges.
Needs neither torch nor Flower.
"""

import sys
from collections.abc import Iterable
from decimal import Decimal
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.mask import mask
from common.audit.attack.drawn import SMALL_BITS, Drawn
from common.contribution import Contribution
from common.crypto import masking, ring, rng
from common.ledger.receipt import Receipt
from common.mechanism import SampledStep, largest_share_bits

HOSPITALS: Final = ("a", "b", "c")  # the honest ones
PAIRS: Final = tuple(combinations(HOSPITALS, 2))
COLLUDERS: Final = 1
DIMENSION: Final = 70_000  # more than the mask works on at once
PATIENTS: Final = 1_000
STEPS: Final = 1_000
RATE: Final = Decimal("0.25")
RING_BITS: Final = 32
NOISE: Final = Decimal(2)
NOISE_SMALL: Final = Decimal("0.0001")  # so small that the rounding of a sum is no matter at a few bits
PER_STEP_MOST: Final = 100

Float = NDArray[np.float64]
Integers = NDArray[np.int64]


def draw(*, rounds: int) -> Drawn:
    """Return draws of `rounds` rounds of three honest hospitals, 70,000 coordinates each; about 0.1 s a vector."""
    bits = largest_share_bits(
        noise_multiplier=NOISE,
        hospitals=len(HOSPITALS) + COLLUDERS,
        colluders=COLLUDERS,
        patients_per_step_max=PER_STEP_MOST,
        ring_bits=RING_BITS,
    )
    mechanism = _mechanism(noise=NOISE, share_bits=bits)
    nothing = np.zeros(DIMENSION)
    shares, sums = [], []
    for _ in range(rounds):
        seeds = {pair: rng.secret_bytes(32) for pair in PAIRS}
        vectors = {me: _sent(nothing, mechanism=mechanism, me=me, seeds=_of(me, seeds)) for me in HOSPITALS}
        sums.append(_added(vectors.values(), dimension=DIMENSION))
        shares.append([_opened(words, me=me, seeds=_of(me, seeds)) for me, words in vectors.items()])
    most = np.where(np.arange(DIMENSION) % 2, 1.0, -1.0) * mechanism.patients_most * mechanism.clipped_norm
    return Drawn(
        mechanism=mechanism,
        shares=np.array(shares),
        sums=np.array(sums),
        at_limit=_share(most, mechanism=mechanism) - np.rint(most / mechanism.grid_step).astype(np.int64),
        small={width: _share(nothing, mechanism=_mechanism(noise=NOISE_SMALL, share_bits=width)) for width in SMALL_BITS},
        samples=np.array([rng.poisson_sample(PATIENTS, rate=RATE) for _ in range(STEPS)]),
        rate=RATE,
    )


def opened_sum(values: Float, *, mechanism: SampledStep) -> Integers:
    """Return the opened sum, in steps of the grid, of the honest hospitals: the first adds `values`, the others nothing."""
    seeds = {pair: rng.secret_bytes(32) for pair in PAIRS}
    given = {me: values if me == HOSPITALS[0] else np.zeros(len(values)) for me in HOSPITALS}
    sent = [_sent(given[me], mechanism=mechanism, me=me, seeds=_of(me, seeds)) for me in HOSPITALS]
    return _added(sent, dimension=len(values))


def _mechanism(*, noise: Decimal, share_bits: int) -> SampledStep:
    return SampledStep(
        noise_multiplier=noise,
        clip_norm=Decimal(1),
        sampling_rate=RATE,
        hospitals=len(HOSPITALS) + COLLUDERS,
        colluders=COLLUDERS,
        dimension=DIMENSION,
        share_bits=share_bits,
        ring_bits=RING_BITS,
        patients_per_step_max=PER_STEP_MOST,
    )


def _of(me: str, seeds: dict[tuple[str, str], bytes]) -> dict[str, bytes]:
    """Return the seeds that `me` shares with its peers."""
    return {pair[1] if pair[0] == me else pair[0]: seed for pair, seed in seeds.items() if me in pair}


def _sent(values: Float, *, mechanism: SampledStep, me: str, seeds: dict[str, bytes]) -> ring.Words:
    receipt = Receipt(reservation=f"attack/1/{me}", study="0" * 64, mechanism=mechanism, sequence=1)
    data = mask(Contribution(values=values.copy(), mechanism=mechanism), receipt=receipt, me=me, seeds=seeds)
    return ring.from_bytes(data, dimension=mechanism.dimension, bits=mechanism.ring_bits)


def _added(vectors: Iterable[ring.Words], *, dimension: int) -> Integers:
    total = ring.zeros(dimension, bits=RING_BITS)
    for words in vectors:
        ring.add_into(total, words)
    return ring.decode(total, bits=RING_BITS)


def _opened(words: ring.Words, *, me: str, seeds: dict[str, bytes]) -> Integers:
    """Return what the masks of `me` hide: every peer's half of the pair is added."""
    opened = words.copy()
    for peer, seed in seeds.items():
        masking.add_masks(opened, me=peer, seeds={me: seed}, bits=RING_BITS)
    return ring.decode(opened, bits=RING_BITS)


def _share(values: Float, *, mechanism: SampledStep) -> Integers:
    seeds = {HOSPITALS[1]: rng.secret_bytes(32)}
    return _opened(_sent(values, mechanism=mechanism, me=HOSPITALS[0], seeds=seeds), me=HOSPITALS[0], seeds=seeds)


if __name__ == "__main__":
    sys.stdout.buffer.write(draw(rounds=int(sys.argv[1])).to_bytes())
