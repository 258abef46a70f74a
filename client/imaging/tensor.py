"""What the CNN sees of a lesion: one windowed axial patch, and its edges where the recipe asks for them."""

import numpy as np
from scipy import ndimage
from skimage.feature import canny

from client.inside import Float, View, Volume
from common.errors import ConfigError, GeometryRefused
from common.recipe import Recipe

_MARGIN = 4  # so that edges at the patch's rim see their neighbours
_CANNY_HU_PER_MM = (10.0, 30.0)
_SOBEL = 8.0  # what the Sobel operator makes of a slope of 1 per voxel


def to_tensor(volume: Volume, *, recipe: Recipe) -> View:
    """Return the patch around the lesion in the axial slice where the lesion is largest; of equal slices, the first.

    float32, (1 or 2, patch_voxels, patch_voxels), values in [0, 1]: the window maps linearly, outside the image counts as the
    window's lower end. Rows run along patient P, columns along L. Channel 2 is the gradient's magnitude per voxel (central
    differences of channel 1), or as the recipe says that by Sobel, or 1 on Canny's edges (10 and 30 HU/mm) and 0 elsewhere.
    Raises GeometryRefused (NO_REGION) without a region, ConfigError where the window is empty.
    """
    lower, upper = float(recipe.window_lower_hu), float(recipe.window_upper_hu)
    if not lower < upper:
        raise ConfigError("The recipe's window is empty.", action="Propose the study again with lower below upper.")
    if volume.region is None or not volume.region.any():
        raise GeometryRefused("NO_REGION")
    size = recipe.patch_voxels
    z = int(volume.region.sum(axis=(1, 2)).argmax())
    rows, columns = np.nonzero(volume.region[z])
    top, left = (round(float(where.mean()) - (size - 1) / 2) for where in (rows, columns))
    margin = _MARGIN
    patch = np.full((size + 2 * margin, size + 2 * margin), lower)
    y, x = (
        _overlap(top - margin, size + 2 * margin, volume.voxels.shape[1]),
        _overlap(left - margin, size + 2 * margin, volume.voxels.shape[2]),
    )
    patch[y[1], x[1]] = volume.voxels[z, y[0], x[0]]
    windowed = np.clip((patch - lower) / (upper - lower), 0.0, 1.0)
    channels = [windowed]
    if recipe.edge_channel:
        channels.append(_edges(windowed, recipe=recipe))
    inner = slice(margin, -margin)
    return View(patient=volume.patient, pixels=np.stack(channels)[:, inner, inner].astype(np.float32))


def _edges(windowed: Float, *, recipe: Recipe) -> Float:
    kind = "gradient" if recipe.filters is None else recipe.filters.edges
    if kind == "sobel":
        down, right = (ndimage.sobel(windowed, axis=axis, mode="nearest") / _SOBEL for axis in (0, 1))
        steep: Float = np.hypot(down, right)
        return steep
    if kind == "canny":
        a_hu_per_mm = _SOBEL * float(recipe.spacing_mm) / float(recipe.window_upper_hu - recipe.window_lower_hu)
        low, high = (threshold * a_hu_per_mm for threshold in _CANNY_HU_PER_MM)
        drawn = canny(windowed, sigma=1.0, low_threshold=low, high_threshold=high, mode="nearest")  # type: ignore[no-untyped-call]
        return np.asarray(drawn, np.float64)
    slope: Float = np.hypot(*np.gradient(windowed))
    return slope


def _overlap(start: int, size: int, extent: int) -> tuple[slice, slice]:
    """Return what of [start, start + size) lies in [0, extent): in the image, and in the patch."""
    first, last = max(0, start), min(extent, start + size)
    return slice(first, last), slice(first - start, last - start)
