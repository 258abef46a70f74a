"""How much of it there is: HU over the volume of a lesion, and the mass that CT's scale of water and air says."""

import math

import numpy as np

from client.inside import Volume
from client.measure import region

NAMES: tuple[str, ...] = ("integrated_intensity_hu_mm3", "mass_mg")


def measure(volume: Volume) -> dict[str, float]:
    """Return both of `volume.region`, nan without a region.

    Integrated intensity: volume of the mesh times mean HU (IBSI 99N0). Mass: volume of the mesh times 1 + HU / 1000 in mg/mm3,
    water being 0 HU and air -1000; below air it is less than nothing. Source: Mull 1984 (doi 10.2214/ajr.143.5.1101).
    """
    if volume.region is None or not volume.region.any():
        return dict.fromkeys(NAMES, math.nan)
    mean = float(volume.voxels[volume.region].mean(dtype=np.float64))
    enclosed = region.mesh(volume.region, spacing_mm=volume.spacing_mm).volume_mm3
    return {"integrated_intensity_hu_mm3": enclosed * mean, "mass_mg": enclosed * (1 + mean / 1000)}
