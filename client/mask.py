"""The last step before the wall: round, add the noise share that the receipt names, mask. No receipt, no mask."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from common.contribution import Contribution
from common.crypto import encoding, masking, noise, ring
from common.errors import InternalError
from common.ledger.receipt import Receipt
from common.mechanism import GaussianShare, LocalSteps

AT_ONCE: Final = 1 << 16  # entries rounded and noised at once: they stay in a core's cache


def mask(contribution: Contribution, *, receipt: Receipt, me: str, seeds: Mapping[str, bytes]) -> bytes:
    """Return the masked vector, little-endian ring words.

    Guarantee: what the receipt's mechanism promises is in the bytes: the clipped sum is rounded once to the grid, clamped to
    the coordinate limit, and exact N_Z(0, 4**share_bits) is added, all before the masks; an exact statistic gets masks only,
    and so does the change of a model by local steps, each of which had its noise.
    Raises InternalError when contribution and receipt name different mechanisms, or no peer would mask the vector.
    Source: reference training.md 1.2, steps 4-6.
    """
    if contribution.mechanism != receipt.mechanism:
        raise InternalError("A contribution does not match its receipt.", action="Report this.")
    if not seeds:
        raise InternalError("A vector would leave without a mask.", action="Report this.")
    words = _words(contribution)
    masking.add_masks(words, me=me, seeds=seeds, bits=receipt.mechanism.ring_bits)
    return ring.to_bytes(words)


def _words(contribution: Contribution) -> ring.Words:
    mechanism, values = contribution.mechanism, contribution.values
    if not isinstance(mechanism, GaussianShare):
        return ring.encode(values, bits=mechanism.ring_bits)
    if values.dtype != np.float64 or len(values) != mechanism.dimension:
        raise InternalError("A clipped sum has the wrong type or length.", action="Report this.")
    if isinstance(mechanism, LocalSteps):
        return encoding.encode(values, encoding=encoding.of(mechanism))
    words = ring.zeros(mechanism.dimension, bits=mechanism.ring_bits)
    for start in range(0, mechanism.dimension, AT_ONCE):
        drawn = noise.noised(values[start : start + AT_ONCE], mechanism=mechanism)
        words[start : start + AT_ONCE] = ring.encode(drawn, bits=mechanism.ring_bits)
    return words
