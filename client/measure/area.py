"""How large a lesion is in one picture: its area in the axial slice, or the radiograph, in which it is largest."""

import math

from client.inside import Volume

NAMES: tuple[str, ...] = ("area_mm2",)


def measure(volume: Volume) -> dict[str, float]:
    """Return the area of `volume.region` in that slice, voxels times their area, mm2; nan without a region.

    Of a radiograph without calibration or magnification these are mm2 of the detector.
    """
    if volume.region is None or not volume.region.any():
        return dict.fromkeys(NAMES, math.nan)
    _, between_rows, between_columns = volume.spacing_mm
    return {"area_mm2": float(volume.region.sum(axis=(1, 2)).max()) * between_rows * between_columns}
