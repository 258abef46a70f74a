"""The last step before the wall: round, add the noise share that the receipt names, mask. No receipt, no mask."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.contribution import Contribution
from common.crypto import masking, ring, rng
from common.errors import InternalError
from common.ledger.receipt import Receipt
from common.mechanism import GaussianShare


def mask(contribution: Contribution, *, receipt: Receipt, me: str, seeds: Mapping[str, bytes]) -> bytes:
    """Return the masked vector, little-endian ring words.

    Guarantee: what the receipt's mechanism promises is in the bytes: the clipped sum is rounded once to the grid, clamped to
    the coordinate limit, and exact N_Z(0, 4**share_bits) is added, all before the masks; an exact statistic gets masks only.
    Raises InternalError when contribution and receipt name different mechanisms, or no peer would mask the vector.
    Source: reference training.md 1.2, steps 4-6.
    """
    if contribution.mechanism != receipt.mechanism:
        raise InternalError("A contribution does not match its receipt.", action="Report this.")
    if not seeds:
        raise InternalError("A vector would leave without a mask.", action="Report this.")
    bits = receipt.mechanism.ring_bits
    words = ring.encode(_integers(contribution), bits=bits)
    masking.add_masks(words, me=me, seeds=seeds, bits=bits)
    return ring.to_bytes(words)


def _integers(contribution: Contribution) -> NDArray[Any]:
    mechanism = contribution.mechanism
    if not isinstance(mechanism, GaussianShare):
        return contribution.values
    if contribution.values.dtype != np.float64 or len(contribution.values) != mechanism.dimension:
        raise InternalError("A clipped sum has the wrong type or length.", action="Report this.")
    rounded = np.rint(contribution.values / mechanism.grid_step)
    if not np.isfinite(rounded).all():
        raise InternalError("A clipped sum is not finite.", action="Report this.")
    limit = mechanism.coordinate_limit
    clamped = np.clip(rounded, -limit, limit).astype(np.int64)
    return clamped + rng.discrete_gaussian(mechanism.dimension, share_bits=mechanism.share_bits)
