"""Neighbouring grey level dependence (NGLDM): how many neighbours have a voxel's own level."""

import numpy as np

from client.inside import Volume
from client.measure.texture import emphasis, levels

NAMES: tuple[str, ...] = (
    "ngldm_low_dependence_emphasis",
    "ngldm_high_dependence_emphasis",
    "ngldm_low_grey_level_count_emphasis",
    "ngldm_high_grey_level_count_emphasis",
    "ngldm_low_dependence_low_grey_level_emphasis",
    "ngldm_low_dependence_high_grey_level_emphasis",
    "ngldm_high_dependence_low_grey_level_emphasis",
    "ngldm_high_dependence_high_grey_level_emphasis",
    "ngldm_grey_level_non_uniformity",
    "ngldm_normalised_grey_level_non_uniformity",
    "ngldm_dependence_count_non_uniformity",
    "ngldm_normalised_dependence_count_non_uniformity",
    "ngldm_grey_level_variance",
    "ngldm_dependence_count_variance",
    "ngldm_dependence_count_entropy",
    "ngldm_dependence_count_energy",
)
_PERCENTAGE = 12  # of the sixteen: always 1 here


def measure(volume: Volume) -> dict[str, float]:
    """Return the NGLDM features of `volume.region`, levels as levels.py has them; all nan where no voxel has a level.

    3-D, distance 1 (26 neighbours), coarseness 0; a dependence counts the voxel itself. IBSI section 3.11: SODN, IMOQ, TL9H,
    OAE7, EQ3F, JA6D, NBZI, 9QMG, FP8K, 5SPA, Z87G, OKJI, 1PFV, DNX2, FCBV, CAS9; the dependence count percentage (6XV8) is left
    out, because it is always 1.
    """
    found = levels.of(volume)
    if found is None:
        return levels.missing(NAMES)
    depends = np.ones(len(found.here), np.int64)
    for other in found.beside(both_ways=True):
        depends += other == found.here
    level, dependence, count = emphasis.tabled(found.here, depends)
    sixteen = emphasis.features(level, dependence, count, possible=len(found.here))
    energy = float(((count / count.sum()) ** 2).sum())
    return dict(zip(NAMES, (*sixteen[:_PERCENTAGE], *sixteen[_PERCENTAGE + 1 :], energy), strict=True))
