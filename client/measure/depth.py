"""Depth of a lesion: how far it lies under the skin."""

import math

from client.inside import Volume
from client.measure import body, region

NAMES: tuple[str, ...] = ("depth_min_mm", "depth_centroid_mm")


def measure(volume: Volume) -> dict[str, float]:
    """Return the distance from the skin to the lesion's outline and to its centroid, mm; nan without a region or without skin.

    Skin: the outline of the air (< -300 HU) that reaches the edge of its axial slice, so air inside the body does not count.
    """
    values = dict.fromkeys(NAMES, math.nan)
    if volume.region is None or not volume.region.any():
        return values
    skin_mm = region.outline(body.outside(volume.voxels), spacing_mm=volume.spacing_mm)
    if not len(skin_mm):
        return values
    return dict(zip(NAMES, body.nearest_mm(volume.region, surface_mm=skin_mm, spacing_mm=volume.spacing_mm), strict=True))
