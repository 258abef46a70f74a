"""Edges of a lesion: how steeply HU change inside it and across its border."""

import math

import numpy as np
from scipy import ndimage
from skimage.feature import canny

from client.inside import Float, Mask, Volume
from client.measure import region

NAMES: tuple[str, ...] = (
    "gradient_mean_hu_per_mm",
    "gradient_sd_hu_per_mm",
    "border_gradient_mean_hu_per_mm",
    "border_gradient_sd_hu_per_mm",
    "border_drop_hu_per_mm",
    "border_contrast_hu",
    "border_width_mm",
    "edge_density",
)
BAND_MM = (2.0, 5.0)
CANNY_MM = 1.0
CANNY_HU_PER_MM = (10.0, 30.0)
_SOBEL = 8.0  # what the Sobel operator makes of a slope of 1 per voxel


def measure(volume: Volume) -> dict[str, float]:
    """Return the edge parameters of `volume.region`; all nan without a region, those of the border nan without an outside.

    Gradient: central differences of HU between neighbouring voxels (at the volume's end, one-sided), HU/mm; denoising is the
    recipe's. gradient_mean, _sd: of its magnitude over the region's voxels. Border: the voxels with a face on the outline, on
    either side of it. border_gradient_mean, _sd: of the magnitude there; noise makes it larger. border_drop: mean fall of HU
    outwards there, along the outline's normal, < 0 where the lesion is darker than what surrounds it; noise cancels.
    border_contrast: mean HU of the region 2 to 5 mm inside its outline, less that 2 to 5 mm outside; nan where the lesion is
    not that deep. border_width: contrast over drop, nan where they differ in sign: within what distance HU go from the one to
    the other. It is the width of a linear ramp of up to 4 mm; a step reads as one to two voxels. Population deviations.
    edge_density: share of the voxels up to 2 mm from the outline, on either side, that are edges by Canny in their axial slice
    (Gaussian of 1 mm, thresholds 10 and 30 HU/mm, the same at every hospital). Source: contrast and width are scale and window
    of Xu et al. 2012 (doi 10.1118/1.4739507), without the fit of a sigmoid.
    """
    values = dict.fromkeys(NAMES, math.nan)
    if volume.region is None or not volume.region.any():
        return values
    box = _around(volume.region, spacing_mm=volume.spacing_mm)
    inside = volume.region[box]
    hu = volume.voxels[box].astype(np.float64)
    gradient = _gradient(hu, spacing_mm=volume.spacing_mm)
    magnitude = np.sqrt((gradient**2).sum(axis=0))
    values["gradient_mean_hu_per_mm"] = float(magnitude[inside].mean())
    values["gradient_sd_hu_per_mm"] = float(magnitude[inside].std())
    if inside.all():
        return values
    border = _border(inside)
    away_mm = _away(inside, spacing_mm=volume.spacing_mm)
    normal = _gradient(ndimage.gaussian_filter(away_mm, 1.0), spacing_mm=volume.spacing_mm)[:, border]
    length = np.sqrt((normal**2).sum(axis=0))
    outwards = (gradient[:, border] * normal).sum(axis=0) / np.where(length > 0, length, 1.0)
    near, far = BAND_MM
    deep, beyond = (away_mm <= -near) & (away_mm >= -far), (away_mm >= near) & (away_mm <= far)
    drop = -float(outwards.mean())
    contrast = float(hu[deep].mean() - hu[beyond].mean()) if deep.any() and beyond.any() else math.nan
    rim = border | (np.abs(away_mm) <= near)
    return values | {
        "border_gradient_mean_hu_per_mm": float(magnitude[border].mean()),
        "border_gradient_sd_hu_per_mm": float(magnitude[border].std()),
        "border_drop_hu_per_mm": drop,
        "border_contrast_hu": contrast,
        "border_width_mm": contrast / drop if contrast * drop > 0 else math.nan,
        "edge_density": float(_canny(hu, spacing_mm=volume.spacing_mm)[rim].mean()),
    }


def _around(mask: Mask, *, spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """Return the box of the region with room for the outer band and for differences, as far as the volume goes."""
    wide = [math.ceil(BAND_MM[1] / size) + 2 for size in spacing_mm]
    return tuple(slice(max(0, side.start - more), side.stop + more) for side, more in zip(region.box(mask), wide, strict=True))


def _gradient(values: Float, *, spacing_mm: tuple[float, ...]) -> Float:
    """Return the gradient, (axis, z, y, x), per mm; 0 along an axis of one voxel."""
    slopes = [
        np.gradient(values, size, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values)
        for axis, size in enumerate(spacing_mm)
    ]
    return np.stack(slopes)


def _canny(hu: Float, *, spacing_mm: tuple[float, ...]) -> Mask:
    """Return the edges of each axial slice. Source: Canny 1986 (doi 10.1109/TPAMI.1986.4767851)."""
    across_mm = (spacing_mm[1] + spacing_mm[2]) / 2
    low, high = (threshold * across_mm * _SOBEL for threshold in CANNY_HU_PER_MM)
    edges = [
        canny(plane, sigma=CANNY_MM / across_mm, low_threshold=low, high_threshold=high, mode="nearest")  # type: ignore[no-untyped-call]
        for plane in hu
    ]
    return np.stack(edges)


def _border(inside: Mask) -> Mask:
    """Return the voxels with a neighbour on the other side of the outline, across a face."""
    border: Mask = np.zeros_like(inside)
    for axis in range(inside.ndim):
        changes = np.diff(inside, axis=axis)
        ends = [(0, 0)] * inside.ndim
        for before in (0, 1):
            ends[axis] = (before, 1 - before)
            border |= np.pad(changes, ends)
    return border


def _away(inside: Mask, *, spacing_mm: tuple[float, ...]) -> Float:
    """Return how far each voxel lies outside the outline, mm, < 0 inside: to the other side's nearest, less half a voxel."""
    half = sum(spacing_mm) / len(spacing_mm) / 2
    outside: Float = ndimage.distance_transform_edt(~inside, sampling=spacing_mm) - half
    within: Float = ndimage.distance_transform_edt(inside, sampling=spacing_mm) - half
    return np.where(inside, -within, outside)
