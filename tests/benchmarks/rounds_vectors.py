"""Ready random vectors, one per hospital and size, known to the driver of the rounds benchmark so that every sum is checked."""

import zlib

import numpy as np

BLOCK = 1 << 17  # entries made at once, so that who only checks a sum holds no vector


def blocks(hospital, *, dimension, most):
    """Yield a hospital's vector in blocks: uniform in [-most, most], float64; the same every time."""
    for start in range(0, dimension, BLOCK):
        random = np.random.default_rng([zlib.crc32(hospital.encode()), dimension, start])
        yield random.uniform(-most, most, min(BLOCK, dimension - start))


def most(mechanism):
    """Return how large an entry may be, so that no clamp changes it."""
    return 0.9 * mechanism.patients_per_step_max * float(mechanism.clip_norm)
