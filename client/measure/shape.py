"""Shape of a lesion: volume and surface of its mesh, and what they say of roundness and dents."""

import math

from scipy.spatial import ConvexHull

from client.inside import Volume
from client.measure import region

NAMES: tuple[str, ...] = (
    "volume_mm3",
    "surface_mm2",
    "sphericity",
    "elongation",
    "flatness",
    "solidity",
    "surface_to_volume_per_mm",
)


def measure(volume: Volume) -> dict[str, float]:
    """Return the shape of `volume.region`; all nan without a region, elongation and flatness nan where there is no such extent.

    Mesh: marching cubes at 0.5 on the zero-padded mask. IBSI RNU0, C0JK, QCFX, Q3CK, N17B, R3ER (mesh over hull
    volume) and 2PR5.
    """
    values = dict.fromkeys(NAMES, math.nan)
    if volume.region is None or not volume.region.any():
        return values
    mesh = region.mesh(volume.region, spacing_mm=volume.spacing_mm)
    values |= {
        "volume_mm3": mesh.volume_mm3,
        "surface_mm2": mesh.surface_mm2,
        "sphericity": (36 * math.pi * mesh.volume_mm3**2) ** (1 / 3) / mesh.surface_mm2,
        "solidity": min(1.0, mesh.volume_mm3 / float(ConvexHull(mesh.vertices_mm).volume)),  # 1 but for rounding
        "surface_to_volume_per_mm": mesh.surface_mm2 / mesh.volume_mm3,
    }
    axes = region.principal_axes(volume.region, spacing_mm=volume.spacing_mm)
    if axes is not None:
        major, minor, least = axes.variances.tolist()
        values["elongation"] = math.sqrt(minor / major) if minor > 0 else math.nan
        values["flatness"] = math.sqrt(least / major) if least > 0 else math.nan
    return values
