"""What several families need of the body: the air around it, and the outline of what lies nearest."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from client.inside import Float, Float32, Mask
from client.measure import region

AIR_HU = -300.0
_ROUNDING_MM = 1e-6
_SOME = 50  # every so many points of the outline tell a first distance
_IN_PLANE: NDArray[np.int64] = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], np.int64)


def outside(voxels: Float32) -> Mask:
    """Return the air (< -300 HU) of voxels (z, y, x) that its axial slice connects to its edge, not that inside the body."""
    labels, count = ndimage.label(voxels < AIR_HU, structure=_IN_PLANE)
    at_edge = np.zeros(count + 1, np.bool_)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        at_edge[edge] = True
    at_edge[0] = False
    found: Mask = at_edge[labels]
    return found


def nearest_mm(lesion: Mask, *, surface_mm: Float, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """Return how far the lesion's outline and its centroid lie from the nearest point of a surface, mm.

    `surface_mm` are points, (point, axis), at least one, in array axes. The nearest pair is no farther apart than any that is
    known, and the tree looks no farther than that: most of a large lesion's outline then costs nothing.
    """
    outline = region.outline(np.pad(lesion, 1), spacing_mm=spacing_mm) - np.array(spacing_mm)
    centroid = np.argwhere(lesion).mean(axis=0) * np.array(spacing_mm)
    away = np.sqrt(((surface_mm - centroid) ** 2).sum(axis=1))
    radius = np.sqrt(((outline - centroid) ** 2).sum(axis=1)).max()
    nearest = surface_mm[away.argmin()]
    known = np.sqrt(((outline - nearest) ** 2).sum(axis=1)).min()
    tree = cKDTree(surface_mm[away <= known + radius + _ROUNDING_MM])
    some, _ = tree.query(outline[::_SOME], distance_upper_bound=known + _ROUNDING_MM)
    known = min(known, np.min(some))
    every, _ = tree.query(outline, distance_upper_bound=known + _ROUNDING_MM)
    return float(np.min(every)), float(away.min())


def largest(plane: Mask) -> tuple[slice, ...] | None:
    """Return the box of the largest part of an axial slice that is at least three voxels thick; None where there is none."""
    labels, count = ndimage.label(ndimage.binary_opening(plane, np.ones((3, 3), np.bool_)))
    if not count:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return region.box(labels == sizes.argmax())
