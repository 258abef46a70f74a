"""Grey-level size zones (GLSZM): how large the connected patches of one level are."""

import numpy as np

from client.inside import Volume
from client.measure.texture import emphasis, levels

NAMES: tuple[str, ...] = (
    "glszm_small_zone_emphasis",
    "glszm_large_zone_emphasis",
    "glszm_low_grey_level_zone_emphasis",
    "glszm_high_grey_level_zone_emphasis",
    "glszm_small_zone_low_grey_level_emphasis",
    "glszm_small_zone_high_grey_level_emphasis",
    "glszm_large_zone_low_grey_level_emphasis",
    "glszm_large_zone_high_grey_level_emphasis",
    "glszm_grey_level_non_uniformity",
    "glszm_normalised_grey_level_non_uniformity",
    "glszm_zone_size_non_uniformity",
    "glszm_normalised_zone_size_non_uniformity",
    "glszm_zone_percentage",
    "glszm_grey_level_variance",
    "glszm_zone_size_variance",
    "glszm_zone_size_entropy",
)


def measure(volume: Volume) -> dict[str, float]:
    """Return the GLSZM features of `volume.region`, levels as levels.py has them; all nan where no voxel has a level.

    3-D, 26-connected zones, sizes in voxels. IBSI section 3.8: 5QRC, 48P8, XMSY, 5GN9, 5RAI, HW1V, YH51, J17V, JNSA, Y1RO,
    4JP3, VB3A, P30P, BYLV, 3NSA, GU8N.
    """
    found = levels.of(volume)
    if found is None:
        return levels.missing(NAMES)
    zone = found.zones()
    size = np.bincount(zone)
    level = np.zeros(len(size), np.int64)
    level[zone] = found.here
    values = emphasis.features(*emphasis.tabled(level, size), possible=len(found.inside))
    return dict(zip(NAMES, values, strict=True))
