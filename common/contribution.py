"""What one hospital adds to one secure sum, before noise and masks. Statistics and training are the same thing from here on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.mechanism import Mechanism


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A vector with a mechanism.

    `values`: for Exact, integers, shape (d,), dtype int64 (rings of 32 and 64 bits) or object holding Python ints (ring of
    128 bits). For GaussianShare, the clipped per-patient sum, shape (d,), dtype float64, L2 sensitivity at most
    `mechanism.clip_norm` times (1 + numerical slack); rounding and noise are added by the mask.
    """

    values: NDArray[Any]
    mechanism: Mechanism

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.values.dtype not in (np.int64, np.float64, object):
            raise TypeError("a contribution is one vector of int64, float64 or Python integers")
        self.values.setflags(write=False)
