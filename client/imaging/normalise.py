"""MR intensities in a unit that does not depend on the scanner: hundredths of the body's standard deviation from its mean."""

from dataclasses import replace
from typing import Final

import numpy as np
from skimage.filters import threshold_otsu

from client.inside import Volume
from common.errors import GeometryRefused

UNIT: Final = 100.0  # a standard deviation; so that whole numbers, to which `prepare` rounds, are fine enough
NO_CONTRAST: Final = "NO_CONTRAST"


def normalise(volume: Volume) -> Volume:
    """Return an MR volume as 100 (v - mean) / SD over its body: the voxels above Otsu's threshold.

    Scaling or shifting what the scanner stored changes nothing. Raises GeometryRefused (NO_CONTRAST) where all voxels are
    alike. Source: z-score normalisation, Reinhold et al. 2019 (doi 10.1117/12.2513089); Otsu 1979.
    """
    voxels = volume.voxels.astype(np.float64)
    if not np.ptp(voxels) > 0:
        raise GeometryRefused(NO_CONTRAST)
    body = voxels[voxels > threshold_otsu(voxels)]  # type: ignore[no-untyped-call]
    if body.size < 2 or not body.std() > 0:
        raise GeometryRefused(NO_CONTRAST)
    scaled = (UNIT * (voxels - body.mean()) / body.std()).astype(np.float32)
    return replace(volume, voxels=scaled)
