"""Preprocessing, the same at every hospital: bias field, unit, isotropic voxels, denoising, as the study's recipe says."""

import math
from dataclasses import replace

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from client.imaging.normalise import normalise
from client.inside import Float32, Mask, Volume, freeze
from common.errors import GeometryRefused
from common.modality import PLANAR
from common.recipe import Recipe

_VOXELS_MOST = 1 << 28  # 1 GiB as float32
_N4_SHRINK = 4
_TIME_STEP, _CONDUCTANCE = 0.0625, 3.0


def prepare(volume: Volume, *, recipe: Recipe) -> Volume:
    """Return the volume corrected, normalised, on voxels of `recipe.spacing_mm`, denoised; the window is the CNN's.

    HU stay HU; other modalities become hundredths of a standard deviation (normalise.py), after N4. Linear interpolation;
    the centres of the old and the new image coincide, each axis has ceil(n s / new) voxels, a radiograph one slice, values are
    rounded; the region is interpolated linearly and kept where >= 0.5. `denoise_mm` is the standard deviation of the Gaussian,
    the radius of the median, or the width to which curvature-anisotropic diffusion would blur what has no edge: that one runs
    only around the region, as far as a patch is wide. N4 divides by the bias field, for MR. Raises GeometryRefused (TOO_LARGE)
    above 2**28 voxels, NO_CONTRAST as normalise.py does.
    Source: IBSI reference manual, section 2.4 (doi 10.1148/radiol.2020191145);
    N4: Tustison 2010 (doi 10.1109/TMI.2010.2046908); diffusion: Whitaker and Xue 2001 (doi 10.1109/ICIP.2001.958556).
    """
    new_mm = float(recipe.spacing_mm)
    old_mm = np.array(volume.spacing_mm)
    cosines = volume.affine[:3, :3] / old_mm
    if volume.modality in PLANAR:
        old_mm[0] = new_mm
    shape = [max(1, math.ceil(round(n * s / new_mm, 6))) for n, s in zip(volume.voxels.shape, old_mm, strict=True)]
    if math.prod(shape) > _VOXELS_MOST:
        raise GeometryRefused("TOO_LARGE")
    first_mm = ((np.array(volume.voxels.shape) - 1) * old_mm - (np.array(shape) - 1) * new_mm) / 2  # of the new grid in the old
    corrected = normalise(replace(volume, voxels=_unbiased(volume, recipe=recipe)))
    voxels = _resampled(corrected.voxels, old_mm=old_mm, new_mm=new_mm, shape=shape, first_mm=first_mm)
    voxels = np.rint(voxels)
    region = None
    if volume.region is not None:
        region = (
            _resampled(volume.region.astype(np.float32), old_mm=old_mm, new_mm=new_mm, shape=shape, first_mm=first_mm) >= 0.5
        )
        freeze(region)
    voxels = _denoised(voxels, region=region, recipe=recipe)
    affine = np.eye(4)
    affine[:3, :3] = cosines * new_mm
    affine[:3, 3] = volume.affine[:3, 3] + cosines @ first_mm
    return replace(volume, voxels=voxels, affine=affine, spacing_mm=(new_mm, new_mm, new_mm), region=region, padding=None)


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


def _unbiased(volume: Volume, *, recipe: Recipe) -> Float32:
    """Return the voxels without the bias field, where the recipe asks for it; shifted, so that N4's logarithm exists."""
    if recipe.filters is None or recipe.filters.bias_field == "none":
        return volume.voxels
    lowest = float(volume.voxels.min()) - 1
    image = sitk.GetImageFromArray(volume.voxels - np.float32(lowest))
    image.SetSpacing([float(s) for s in volume.spacing_mm[::-1]])  # type: ignore[no-untyped-call]
    small = sitk.Shrink(image, [max(1, min(_N4_SHRINK, size // 4)) for size in image.GetSize()])  # type: ignore[no-untyped-call]
    fit = sitk.N4BiasFieldCorrectionImageFilter()  # type: ignore[no-untyped-call]
    fit.Execute(small, sitk.OtsuThreshold(small, 0, 1))  # type: ignore[no-untyped-call]
    field = sitk.GetArrayFromImage(fit.GetLogBiasFieldAsImage(image))  # type: ignore[no-untyped-call]
    corrected: Float32 = ((volume.voxels - np.float32(lowest)) / np.exp(field) + np.float32(lowest)).astype(np.float32)
    return corrected


def _denoised(voxels: Float32, *, region: Mask | None, recipe: Recipe) -> Float32:
    width = float(recipe.denoise_mm) / float(recipe.spacing_mm)
    if recipe.denoise == "none":
        return voxels
    if recipe.denoise == "gaussian":
        smooth: Float32 = ndimage.gaussian_filter(voxels, width, mode="nearest")
        return smooth
    if recipe.denoise == "curvature-anisotropic":
        return _diffused(voxels, width=width, region=region, recipe=recipe)
    radius = max(1, round(width))
    median: Float32 = sitk.GetArrayFromImage(sitk.Median(sitk.GetImageFromArray(voxels), [radius] * 3))  # type: ignore[no-untyped-call]
    return median


def _diffused(voxels: Float32, *, width: float, region: Mask | None, recipe: Recipe) -> Float32:
    """Return the voxels after diffusion along their level sets; time t blurs flat parts to a width of sqrt(2 t) voxels."""
    times = round(width**2 / (2 * _TIME_STEP))
    where = _around(region, margin=recipe.patch_voxels) if region is not None and region.any() else (slice(None),) * 3
    part = sitk.GetImageFromArray(np.ascontiguousarray(voxels[where]))
    diffused = voxels.copy()
    diffused[where] = sitk.GetArrayFromImage(sitk.CurvatureAnisotropicDiffusion(part, _TIME_STEP, _CONDUCTANCE, 1, times))  # type: ignore[no-untyped-call]
    return diffused


def _around(region: Mask, *, margin: int) -> tuple[slice, ...]:
    sides = []
    for axis in range(3):
        hit = np.flatnonzero(region.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(max(0, int(hit[0]) - margin), int(hit[-1]) + 1 + margin))
    return tuple(sides)
