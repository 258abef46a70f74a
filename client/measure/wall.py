"""Distance of a lesion to the lungs' wall, from within or from without."""

import math

import numpy as np
from scipy import ndimage
from skimage.measure import label

from client.inside import Mask, Volume
from client.measure import body, region

NAMES: tuple[str, ...] = ("wall_distance_mm",)
LUNG_HU = -400.0
LUNG_MM3 = 100_000.0
CLOSED_MM = 4.0


def measure(volume: Volume) -> dict[str, float]:
    """Return the least distance between the outlines of `volume.region` and of the lungs, mm; nan without a region or lungs.

    Lungs: air (< -400 HU) inside the body, opened by one voxel, of that the two largest connected parts of at least 100 cm3,
    closed by a box of 4 mm to every side, holes in an axial slice filled: a nodule with lung all around is inside, one
    that touches the wall is at it. Source: imaging.md section 4 of the house's reference.
    """
    values = dict.fromkeys(NAMES, math.nan)
    if volume.region is None or not volume.region.any():
        return values
    lungs = organ(volume)
    if lungs is None:
        return values
    wall_mm = region.outline(np.pad(lungs, 1), spacing_mm=volume.spacing_mm) - np.array(volume.spacing_mm)
    last_mm = (len(lungs) - 1) * volume.spacing_mm[0]
    wall_mm = wall_mm[(wall_mm[:, 0] >= 0) & (wall_mm[:, 0] <= last_mm)]  # the end of the image is no wall
    if not len(wall_mm):
        return values
    return {NAMES[0]: body.nearest_mm(volume.region, surface_mm=wall_mm, spacing_mm=volume.spacing_mm)[0]}


def organ(volume: Volume) -> Mask | None:
    """Return the lungs, (z, y, x), None where there are none."""
    air = (volume.voxels < LUNG_HU) & ~body.outside(volume.voxels)
    if not air.any():
        return None
    box = region.box(air)
    parts = label(ndimage.binary_opening(np.pad(air[box], 1)), connectivity=1)  # type: ignore[no-untyped-call]
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    least = LUNG_MM3 / math.prod(volume.spacing_mm)
    kept = [part for part in np.argsort(sizes)[::-1][:2].tolist() if sizes[part] >= least]
    if not kept:
        return None
    wide = [math.ceil(CLOSED_MM / size) for size in volume.spacing_mm]
    found = np.pad(np.isin(parts, kept)[1:-1, 1:-1, 1:-1], [(more, more) for more in wide])
    size = [2 * more + 1 for more in wide]
    closed = ndimage.minimum_filter(ndimage.maximum_filter(found, size), size, mode="constant")  # by a box: one axis at a time
    inner = tuple(slice(more, -more) for more in wide)
    lungs: Mask = np.zeros(volume.voxels.shape, np.bool_)
    lungs[box] = np.stack([ndimage.binary_fill_holes(plane) for plane in closed[inner]])
    return lungs
