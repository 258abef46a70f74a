"""Intensity of what has no unit: first-order statistics in standard deviations of the normalised image (MR, radiographs)."""

import math

import numpy as np

from client.inside import Volume
from common.modality import A_DEVIATION, NORMALISED

NAMES: tuple[str, ...] = NORMALISED


def measure(volume: Volume) -> dict[str, float]:
    """Return the statistics inside `volume.region`, in standard deviations from the mean (client/imaging/normalise.py).

    All nan without a region, and of a CT, whose HU are not normalised. Population deviation; percentiles interpolate.
    """
    if volume.region is None or not volume.region.any() or volume.modality == "CT":
        return dict.fromkeys(NAMES, math.nan)
    z = volume.voxels[volume.region].astype(np.float64) / A_DEVIATION
    values = (z.mean(), z.std(), *np.percentile(z, [50, 10, 90]))
    return {name: float(value) for name, value in zip(NAMES, values, strict=True)}
