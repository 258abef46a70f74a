"""Shape of a lesion: volume and surface of its mesh, and what they say of roundness and dents."""

import math

import numpy as np
from scipy.spatial import ConvexHull
from skimage.measure import marching_cubes

from client.inside import Volume
from client.measure import region

NAMES: tuple[str, ...] = ("volume_mm3", "surface_mm2", "sphericity", "elongation", "flatness", "solidity")


def measure(volume: Volume) -> dict[str, float]:
    """Return the shape of `volume.region`; all nan without a region, elongation and flatness nan where there is no such extent.

    Mesh: marching cubes at 0.5 on the zero-padded mask. IBSI RNU0, C0JK, QCFX, Q3CK, N17B, and R3ER (mesh over hull volume).
    """
    values = dict.fromkeys(NAMES, math.nan)
    if volume.region is None or not volume.region.any():
        return values
    mesh = marching_cubes(region.cropped(volume.region).astype(np.float32), 0.5, spacing=volume.spacing_mm)  # type: ignore[no-untyped-call]
    vertices, faces = mesh[:2]
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    enclosed = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6
    surface = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2
    values |= {
        "volume_mm3": enclosed,
        "surface_mm2": surface,
        "sphericity": (36 * math.pi * enclosed**2) ** (1 / 3) / surface,
        "solidity": enclosed / float(ConvexHull(vertices).volume),
    }
    axes = region.principal_axes(volume.region, spacing_mm=volume.spacing_mm)
    if axes is not None:
        major, minor, least = axes.variances.tolist()
        values["elongation"] = math.sqrt(minor / major) if minor > 0 else math.nan
        values["flatness"] = math.sqrt(least / major) if least > 0 else math.nan
    return values
