"""The histogram of a lesion's grey levels: how many bits its HU need on the scale that texture uses."""

import math

import numpy as np

from client.inside import Volume
from client.measure.texture import levels

NAMES: tuple[str, ...] = ("intensity_entropy_bits",)


def measure(volume: Volume) -> dict[str, float]:
    """Return the entropy of the levels of `volume.region`, 25 HU each from -1000 HU (levels.py), bits; nan without any level.

    IBSI TLU2.
    """
    found = levels.of(volume)
    if found is None:
        return dict.fromkeys(NAMES, math.nan)
    counts = np.bincount(found.here)
    share = counts[counts > 0] / len(found.here)
    return {"intensity_entropy_bits": abs(float(share @ np.log2(share)))}
