"""Which voxels are the lesion: the largest connected part of the region that was drawn."""

from dataclasses import replace
from enum import StrEnum

import numpy as np
from scipy import ndimage

from client.inside import Mask, Volume, freeze
from common.errors import GeometryRefused
from common.modality import PLANAR

VOXELS_LEAST = 8


class NoLesion(StrEnum):
    """Why a region cannot be measured; `GeometryRefused.reason`."""

    NO_REGION = "NO_REGION"  # nobody drew one
    EMPTY_REGION = "EMPTY_REGION"
    REGION_TOO_SMALL = "REGION_TOO_SMALL"
    REGION_AT_BORDER = "REGION_AT_BORDER"  # the lesion may go on outside the image


def locate(volume: Volume, *, whole: bool = False) -> Volume:
    """Return the volume with only the largest 26-connected component of its region; of equal ones, the first.

    `whole`: the region is all of a radiograph that was measured, and it is returned as it is. A radiograph ends at its four
    sides.
    Raises GeometryRefused with one of `NoLesion`: no region, none of its voxels left, fewer than 8, or at the volume's border.
    """
    if volume.region is None:
        raise GeometryRefused(NoLesion.NO_REGION)
    if not volume.region.any():
        raise GeometryRefused(NoLesion.EMPTY_REGION)
    if whole:
        return volume
    labels, _ = ndimage.label(volume.region, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    region: Mask = labels == sizes.argmax()
    if sizes.max() < VOXELS_LEAST:
        raise GeometryRefused(NoLesion.REGION_TOO_SMALL)
    if any(np.take(region, [0, -1], axis=axis).any() for axis in range(1 if volume.modality in PLANAR else 0, 3)):
        raise GeometryRefused(NoLesion.REGION_AT_BORDER)
    freeze(region)
    return replace(volume, region=region)
