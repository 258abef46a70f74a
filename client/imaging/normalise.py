"""Intensities without a unit become hundredths of a standard deviation from a mean, whatever the scanner stored."""

from dataclasses import replace
from typing import Final

import numpy as np
from skimage.filters import threshold_otsu

from client.inside import Volume
from common.errors import GeometryRefused
from common.modality import A_DEVIATION, PLANAR

NO_CONTRAST: Final = "NO_CONTRAST"


def normalise(volume: Volume) -> Volume:
    """Return an image as 100 (v - mean) / SD; a CT as it is, since HU are a unit.

    Mean and population SD are of an MR's body, the voxels above Otsu's threshold, and of all of a radiograph, where air is
    what is looked at as well. Padding enters neither. Scaling or shifting what the scanner stored changes nothing. Raises
    GeometryRefused (NO_CONTRAST) where all voxels are alike or nothing was measured.
    Source: z-score normalisation, Reinhold et al. 2019 (doi 10.1117/12.2513089); Otsu 1979.
    """
    if volume.modality == "CT":
        return volume
    measured = (volume.voxels if volume.padding is None else volume.voxels[~volume.padding]).astype(np.float64)
    if not measured.size or not np.ptp(measured) > 0:
        raise GeometryRefused(NO_CONTRAST)
    counted = measured
    if volume.modality not in PLANAR:
        counted = measured[measured > threshold_otsu(measured)]  # type: ignore[no-untyped-call]
    if counted.size < 2 or not counted.std() > 0:
        raise GeometryRefused(NO_CONTRAST)
    scaled = (A_DEVIATION * (volume.voxels.astype(np.float64) - counted.mean()) / counted.std()).astype(np.float32)
    return replace(volume, voxels=scaled)
