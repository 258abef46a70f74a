"""Neighbourhood grey tone differences (NGTDM): how far a level is from the mean of its neighbours."""

import math

import numpy as np

from client.inside import Volume
from client.measure.texture import levels
from client.measure.texture.levels import ratio

NAMES: tuple[str, ...] = ("ngtdm_coarseness", "ngtdm_contrast", "ngtdm_busyness", "ngtdm_complexity", "ngtdm_strength")


def measure(volume: Volume) -> dict[str, float]:
    """Return the NGTDM features of `volume.region`, levels as levels.py has them; all nan where no two voxels are neighbours.

    3-D, distance 1 (26 neighbours). Nan where a feature divides by 0, for which programs put values of their own choice:
    coarseness and strength without any difference, contrast and busyness with one level. IBSI section 3.10: QCDE, 65HE, NQ30,
    HDEZ, 1X9X.
    """
    found = levels.of(volume)
    if found is None:
        return levels.missing(NAMES)
    total, neighbours = np.zeros(len(found.here), np.int64), np.zeros(len(found.here), np.int64)
    for other in found.beside(both_ways=True):
        total += other
        neighbours += other > 0
    some = neighbours > 0
    if not some.any():
        return levels.missing(NAMES)
    here = found.here[some]
    counts = np.bincount(here)
    i = np.flatnonzero(counts)
    differs = np.bincount(here, weights=np.abs(here - total[some] / neighbours[some]))[i]
    p = counts[i] / len(here)
    weighted = p * differs
    apart = np.abs(i[:, None] - i)
    both = p[:, None] + p
    one_level = len(i) == 1
    values = (
        ratio(1, weighted.sum()),
        math.nan if one_level else float(p @ apart**2 @ p) / (len(i) * (len(i) - 1)) * float(differs.sum()) / len(here),
        ratio(weighted.sum(), np.abs(i * p - (i * p)[:, None]).sum()),
        float((apart * (weighted[:, None] + weighted) / both).sum()) / len(here),
        ratio((both * apart**2).sum(), differs.sum()),
    )
    return dict(zip(NAMES, values, strict=True))
