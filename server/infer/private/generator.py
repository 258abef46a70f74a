"""Pseudo-random numbers for simulations at the coordinator, the same for the same bytes; never privacy noise, never a secret.

The one place in product code with a generator of its own (CONTRIBUTING, style 9): a bootstrap has to give the same report for
the same sums, on every machine, and draws millions of normals. Nothing that it returns is ever added to a release.
"""

import hashlib

import numpy as np


def generator(*parts: bytes) -> np.random.Generator:  # noqa: TID251  (no privacy noise: see above)
    """Return Philox keyed by the SHA-256 of `parts`; equal parts, equal numbers."""
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))  # noqa: TID251
