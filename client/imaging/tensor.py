"""What the CNN sees of a lesion: a windowed axial patch or cube, and its edges where the recipe asks for them."""

import functools

import numpy as np
from scipy import ndimage
from skimage.feature import canny

from client.inside import Float, Float32, Mask, View, Volume
from common.errors import GeometryRefused
from common.recipe import Recipe

_MARGIN = 4  # so that edges at the patch's rim see their neighbours
_CANNY_HU_PER_MM = (10.0, 30.0)
_SOBEL = 8.0  # what the Sobel operator in a plane makes of a slope of 1 per voxel


def to_tensor(volume: Volume, *, recipe: Recipe) -> View:
    """Return the patch around the lesion: in the axial slice where it is largest (of equal ones the first), or a cube.

    float32, of the recipe's `view_shape`, values in [0, 1]: the window maps linearly, outside the image counts as the
    window's lower end. Rows run along patient P, columns along L, z along S. The centre is the mean of the region's voxels in
    that slice, or in the volume. Channel 2 is the gradient's magnitude per voxel (central differences of channel 1), or as the
    recipe says that by Sobel, or 1 on Canny's edges (10 and 30 HU/mm, within each axial slice) and 0 elsewhere.
    Units of the window stand for HU where the modality is not CT. Raises GeometryRefused (NO_REGION) without a region.
    """
    lower, upper = float(recipe.window_lower), float(recipe.window_upper)
    if volume.region is None or not volume.region.any():
        raise GeometryRefused("NO_REGION")
    voxels, region = volume.voxels, volume.region
    if recipe.patch == "slice":
        z = int(region.sum(axis=(1, 2)).argmax())
        voxels, region = voxels[z], region[z]
    windowed = np.clip(
        (_patch(voxels, around=region, side=recipe.patch_voxels, outside=lower) - lower) / (upper - lower), 0.0, 1.0
    )
    channels = [windowed]
    if recipe.edge_channel:
        channels.append(_edges(windowed, recipe=recipe))
    inner = (slice(None), *(slice(_MARGIN, -_MARGIN),) * windowed.ndim)
    return View(patient=volume.patient, pixels=np.stack(channels)[inner].astype(np.float32))


def _patch(voxels: Float32, *, around: Mask, side: int, outside: float) -> Float:
    """Return a square or cube of `side` voxels and the margin, its centre at the mean of the voxels of `around`."""
    patch = np.full((side + 2 * _MARGIN,) * voxels.ndim, outside)
    starts = [round(float(where.mean()) - (side - 1) / 2) - _MARGIN for where in np.nonzero(around)]
    cuts = [_overlap(start, len(patch), extent) for start, extent in zip(starts, voxels.shape, strict=True)]
    patch[tuple(here for _, here in cuts)] = voxels[tuple(there for there, _ in cuts)]
    return patch


def _edges(windowed: Float, *, recipe: Recipe) -> Float:
    kind = "gradient" if recipe.filters is None else recipe.filters.edges
    if kind == "canny":
        if windowed.ndim == 3:
            return np.stack([_canny(plane, recipe=recipe) for plane in windowed])
        return _canny(windowed, recipe=recipe)
    axes = range(windowed.ndim)
    if kind == "sobel":
        steep = 2.0 * 4.0 ** (windowed.ndim - 1)  # what the Sobel operator makes of a slope of 1 per voxel
        slopes = [ndimage.sobel(windowed, axis=axis, mode="nearest") / steep for axis in axes]
    else:
        slopes = [np.gradient(windowed, axis=axis) for axis in axes]
    magnitude: Float = functools.reduce(np.hypot, slopes)
    return magnitude


def _canny(plane: Float, *, recipe: Recipe) -> Float:
    a_hu_per_mm = _SOBEL * float(recipe.spacing_mm) / float(recipe.window_upper - recipe.window_lower)
    low, high = (threshold * a_hu_per_mm for threshold in _CANNY_HU_PER_MM)
    drawn = canny(plane, sigma=1.0, low_threshold=low, high_threshold=high, mode="nearest")  # type: ignore[no-untyped-call]
    return np.asarray(drawn, np.float64)


def _overlap(start: int, size: int, extent: int) -> tuple[slice, slice]:
    """Return what of [start, start + size) lies in [0, extent): in the image, and in the patch."""
    first, last = max(0, start), min(extent, start + size)
    return slice(first, last), slice(first - start, last - start)
