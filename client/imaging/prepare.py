"""Preprocessing, the same at every hospital: resample to isotropic voxels, then denoise, as the study's recipe says."""

import math
from dataclasses import replace

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from client.inside import Float32, Volume, freeze
from common.errors import ConfigError, GeometryRefused
from common.study import Recipe

_VOXELS_MOST = 1 << 28  # 1 GiB as float32


def prepare(volume: Volume, *, recipe: Recipe) -> Volume:
    """Return the volume on voxels of `recipe.spacing_mm`, denoised; HU stay HU (the window belongs to the CNN).

    Linear interpolation; the centres of the old and the new image coincide, each axis has ceil(n s / new) voxels, HU are
    rounded; the region is interpolated linearly and kept where >= 0.5. `denoise_mm` is the standard deviation of the Gaussian,
    or the radius of the median. Raises GeometryRefused (TOO_LARGE) above 2**28 voxels, ConfigError on a negative width.
    Source: IBSI reference manual, section 2.4 (doi 10.1148/radiol.2020191145).
    """
    new_mm = float(recipe.spacing_mm)
    old_mm = np.array(volume.spacing_mm)
    shape = [max(1, math.ceil(round(n * s / new_mm, 6))) for n, s in zip(volume.voxels.shape, old_mm, strict=True)]
    if math.prod(shape) > _VOXELS_MOST:
        raise GeometryRefused("TOO_LARGE")
    first_mm = ((np.array(volume.voxels.shape) - 1) * old_mm - (np.array(shape) - 1) * new_mm) / 2  # of the new grid in the old
    voxels = _resampled(volume.voxels, old_mm=old_mm, new_mm=new_mm, shape=shape, first_mm=first_mm)
    voxels = _denoised(np.rint(voxels), recipe=recipe)
    region = None
    if volume.region is not None:
        region = (
            _resampled(volume.region.astype(np.float32), old_mm=old_mm, new_mm=new_mm, shape=shape, first_mm=first_mm) >= 0.5
        )
        freeze(region)
    cosines = volume.affine[:3, :3] / old_mm
    affine = np.eye(4)
    affine[:3, :3] = cosines * new_mm
    affine[:3, 3] = volume.affine[:3, 3] + cosines @ first_mm
    return replace(volume, voxels=voxels, affine=affine, spacing_mm=(new_mm, new_mm, new_mm), region=region)


def _resampled(array: Float32, *, old_mm: np.ndarray, new_mm: float, shape: list[int], first_mm: np.ndarray) -> Float32:
    if list(array.shape) == shape and np.allclose(old_mm, new_mm, rtol=1e-9):
        return array.copy()
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in old_mm[::-1]])  # type: ignore[no-untyped-call]
    resampled = sitk.Resample(
        image,
        shape[::-1],
        sitk.Transform(),  # type: ignore[no-untyped-call]
        sitk.sitkLinear,
        [float(o) for o in first_mm[::-1]],
        [new_mm] * 3,
        image.GetDirection(),  # type: ignore[no-untyped-call]
        0.0,  # never used: every new centre lies inside the old voxels
        sitk.sitkFloat32,
    )
    result: Float32 = sitk.GetArrayFromImage(resampled)
    return result


def _denoised(voxels: Float32, *, recipe: Recipe) -> Float32:
    width = float(recipe.denoise_mm) / float(recipe.spacing_mm)
    if recipe.denoise == "none":
        return voxels
    if width < 0:
        raise ConfigError("The recipe's denoise_mm is negative.", action="Propose the study again with a width of at least 0.")
    if recipe.denoise == "gaussian":
        smooth: Float32 = ndimage.gaussian_filter(voxels, width, mode="nearest")
        return smooth
    radius = max(1, round(width))
    median: Float32 = sitk.GetArrayFromImage(sitk.Median(sitk.GetImageFromArray(voxels), [radius] * 3))  # type: ignore[no-untyped-call]
    return median
