"""Angles of a lesion, in patient axes: where its longest axial diameter points, and how its major axis leans."""

import math

import numpy as np

from client.inside import Volume
from client.measure import region

NAMES: tuple[str, ...] = ("in_plane_angle_cos2", "in_plane_angle_sin2", "major_polar_deg")


def measure(volume: Volume) -> dict[str, float]:
    """Return the angles of `volume.region`; nan where there is no region or no direction stands out.

    in_plane_angle: of the longest axial diameter, from patient L towards P, as cos 2a and sin 2a because 0 and 180 degrees are
    the same. major_polar_deg: between the major principal axis and patient S, 0 to 90.
    """
    values = dict.fromkeys(NAMES, math.nan)
    cosines = volume.affine[:3, :3] / np.array(volume.spacing_mm)  # columns: z, y, x in LPS
    chord = region.longest_chord(volume)
    if chord is not None:
        left, posterior, _ = cosines[:, 1:] @ chord.direction
        if math.hypot(left, posterior) > 1e-6:
            twice = 2 * math.atan2(posterior, left)
            values |= {"in_plane_angle_cos2": math.cos(twice), "in_plane_angle_sin2": math.sin(twice)}
    axes = region.principal_axes(volume)
    if axes is not None and axes.variances[0] > (1 + 1e-6) * axes.variances[1]:
        superior = float(abs(cosines @ axes.directions[:, 0])[2])
        values["major_polar_deg"] = math.degrees(math.acos(min(1.0, superior)))
    return values
