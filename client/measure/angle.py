"""Angles of a lesion, in patient axes: where it points in the axial plane, and how its major axis leans."""

import math

import numpy as np

from client.inside import Volume
from client.measure import region

NAMES: tuple[str, ...] = (
    "in_plane_angle_cos2",
    "in_plane_angle_sin2",
    "major_polar_deg",
    "major_azimuth_cos2",
    "major_azimuth_sin2",
)


def measure(volume: Volume) -> dict[str, float]:
    """Return the angles of `volume.region`; nan where there is no region or no direction stands out.

    in_plane_angle: of the lesion's major axis in the axial slice of its longest diameter, from patient L towards P, as cos 2a
    and sin 2a because 0 and 180 degrees are the same. The axis is that of the second moments: the direction of the single
    longest chord jumps by several degrees with the pixel grid. major_polar_deg: between the major axis in 3-D and patient S,
    0 to 90. major_azimuth: of that axis seen from S, from L towards P, as cos 2a and sin 2a; nan where it runs along S.
    """
    values = dict.fromkeys(NAMES, math.nan)
    cosines = volume.affine[:3, :3] / np.array(volume.spacing_mm)  # columns: z, y, x in LPS
    chord = region.longest_chord(volume)
    across = region.principal_axes(chord.plane if chord else None, spacing_mm=volume.spacing_mm[1:])
    if across is not None and _stands_out(across):
        left, posterior, _ = cosines[:, 1:] @ across.directions[:, 0]
        values |= _twice(float(left), float(posterior), name="in_plane_angle")
    axes = region.principal_axes(volume.region, spacing_mm=volume.spacing_mm)
    if axes is not None and _stands_out(axes):
        left, posterior, superior = (float(part) for part in cosines @ axes.directions[:, 0])
        values["major_polar_deg"] = math.degrees(math.acos(min(1.0, abs(superior))))
        values |= _twice(left, posterior, name="major_azimuth")
    return values


def _twice(left: float, posterior: float, *, name: str) -> dict[str, float]:
    """Return twice the angle of an axis in the patient's axial plane; nothing where it does not lie in it at all."""
    if math.hypot(left, posterior) <= 1e-6:
        return {}
    twice = 2 * math.atan2(posterior, left)
    return {f"{name}_cos2": math.cos(twice), f"{name}_sin2": math.sin(twice)}


def _stands_out(axes: region.Axes) -> bool:
    return bool(axes.variances[0] > (1 + 1e-6) * axes.variances[1])
