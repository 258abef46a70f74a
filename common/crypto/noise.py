"""A clipped sum on its mechanism's grid, with the exact noise that the mechanism promises: what both rhythms add."""

import numpy as np
from numpy.typing import NDArray

from common.crypto import rng
from common.errors import InternalError
from common.mechanism import GaussianShare

__all__ = ["noised"]


def noised(values: NDArray[np.float64], *, mechanism: GaussianShare) -> NDArray[np.int64]:
    """Return `values`, any part of a clipped sum, as integers with noise, in steps of the mechanism's grid.

    Rounded once, clamped to the coordinate limit; then exact N_Z(0, 4**share_bits) of secret randomness is added, as integers.
    Raises InternalError when a value is not finite. Source: reference training.md 1.2, steps 4 and 5.
    """
    rounded = values / mechanism.grid_step
    np.rint(rounded, out=rounded)
    if not np.isfinite(rounded).all():
        raise InternalError("A clipped sum is not finite.", action="Report this.")
    limit = mechanism.coordinate_limit
    np.clip(rounded, -limit, limit, out=rounded)
    return rounded.astype(np.int64) + rng.discrete_gaussian(len(rounded), share_bits=mechanism.share_bits)
