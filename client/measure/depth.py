"""Depth of a lesion: how far it lies under the skin."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from client.inside import Mask, Volume
from client.measure import region

NAMES: tuple[str, ...] = ("depth_min_mm", "depth_centroid_mm")
AIR_HU = -300.0
_IN_PLANE: NDArray[np.int64] = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], np.int64)


def measure(volume: Volume) -> dict[str, float]:
    """Return the distance from the skin to the lesion's outline and to its centroid, mm; nan without a region or without skin.

    Skin: the outline of the air (< -300 HU) that reaches the edge of its axial slice, so air inside the body does not count.
    """
    values = dict.fromkeys(NAMES, math.nan)
    if volume.region is None or not volume.region.any():
        return values
    skin = region.outline(_outside(volume), spacing_mm=volume.spacing_mm)
    if not len(skin):
        return values
    tree = cKDTree(skin)
    lesion = region.outline(np.pad(volume.region, 1), spacing_mm=volume.spacing_mm) - np.array(volume.spacing_mm)
    centroid = np.argwhere(volume.region).mean(axis=0) * np.array(volume.spacing_mm)
    distances, _ = tree.query(np.vstack([centroid, lesion]))
    depths: list[float] = np.asarray(distances).tolist()
    return {"depth_min_mm": min(depths[1:]), "depth_centroid_mm": depths[0]}


def _outside(volume: Volume) -> Mask:
    """Return the air connected, within its axial slice, to the slice's edge."""
    labels, count = ndimage.label(volume.voxels < AIR_HU, structure=_IN_PLANE)
    at_edge = np.zeros(count + 1, np.bool_)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        at_edge[edge] = True
    at_edge[0] = False
    outside: Mask = at_edge[labels]
    return outside
