"""Grey-level distance zones (GLDZM): how far the connected patches of one level lie from the lesion's border."""

import numpy as np
from scipy import ndimage

from client.inside import Volume
from client.measure.texture import emphasis, levels

NAMES: tuple[str, ...] = (
    "gldzm_small_distance_emphasis",
    "gldzm_large_distance_emphasis",
    "gldzm_low_grey_level_zone_emphasis",
    "gldzm_high_grey_level_zone_emphasis",
    "gldzm_small_distance_low_grey_level_emphasis",
    "gldzm_small_distance_high_grey_level_emphasis",
    "gldzm_large_distance_low_grey_level_emphasis",
    "gldzm_large_distance_high_grey_level_emphasis",
    "gldzm_grey_level_non_uniformity",
    "gldzm_normalised_grey_level_non_uniformity",
    "gldzm_zone_distance_non_uniformity",
    "gldzm_normalised_zone_distance_non_uniformity",
    "gldzm_zone_percentage",
    "gldzm_grey_level_variance",
    "gldzm_zone_distance_variance",
    "gldzm_zone_distance_entropy",
)


def measure(volume: Volume) -> dict[str, float]:
    """Return the GLDZM features of `volume.region`, levels as levels.py has them; all nan where no voxel has a level.

    3-D, 26-connected zones; a zone's distance is that of its voxel nearest to the border of the region, in voxels from face to
    face, 1 at the border. IBSI section 3.9: 0GBI, MB4I, S1RA, K26C, RUVG, DKNJ, A7WM, KLTH, VFT7, 7HP3, V294, IATH, VIWW, QK93,
    7WT1, GBDU.
    """
    found = levels.of(volume)
    if found is None:
        return levels.missing(NAMES)
    zone = found.zones()
    depth = ndimage.distance_transform_cdt(found.region, metric="taxicab").ravel()[found.inside].astype(np.int64)
    zones = int(zone.max()) + 1
    level, distance = np.zeros(zones, np.int64), np.full(zones, depth.max())
    level[zone] = found.here
    np.minimum.at(distance, zone, depth)
    values = emphasis.features(*emphasis.tabled(level, distance), possible=len(found.inside))
    return dict(zip(NAMES, values, strict=True))
