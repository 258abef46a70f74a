"""Lengths of a lesion: RECIST diameters in the axial plane, the largest 3-D diameter, the principal axes."""

import math

import numpy as np
from scipy.spatial.distance import pdist

from client.inside import Volume
from client.measure import region

NAMES: tuple[str, ...] = (
    "longest_diameter_mm",
    "short_axis_mm",
    "diameter_3d_mm",
    "major_axis_mm",
    "minor_axis_mm",
    "least_axis_mm",
)


def measure(volume: Volume) -> dict[str, float]:
    """Return the lengths of `volume.region`, mm; all nan without a region, and an axis is nan where the lesion has no extent.

    Longest diameter: between outline points of one axial slice; short axis: the extent across it in that slice (SCT 103339001,
    103340004). 3-D diameter between outline points (IBSI L0JK). Axes: 4 times the root of the variance (TDIC, P9VJ, 7J51).
    """
    values = dict.fromkeys(NAMES, math.nan)
    chord = region.longest_chord(volume)
    if volume.region is None or chord is None:
        return values
    points = region.extreme(region.outline(region.cropped(volume.region), spacing_mm=volume.spacing_mm))
    values |= {
        "longest_diameter_mm": chord.length_mm,
        "short_axis_mm": chord.across_mm,
        "diameter_3d_mm": float(pdist(points).max()),
    }
    axes = region.principal_axes(volume.region, spacing_mm=volume.spacing_mm)
    if axes is not None:
        lengths = np.where(axes.variances > 0, 4 * np.sqrt(axes.variances), np.nan)
        values |= dict(zip(NAMES[3:], lengths.tolist(), strict=True))
    return values
