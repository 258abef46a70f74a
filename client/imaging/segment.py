"""A lesion out of a point or a box: three classical segmentations, and how far they agree says how good one is."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage
from skimage.segmentation import watershed

from client.inside import Float, Float32, Mask, Volume, freeze
from common.errors import GeometryRefused

Method = Literal["threshold", "region-growing", "watershed"]
METHODS: tuple[Method, ...] = ("threshold", "region-growing", "watershed")
SEED_MM = 2.0  # radius of what is taken for lesion around a seed
RING_MM = (1.0, 5.0)  # what is taken for its surroundings, outside the outline
_GROWN = (2.5, 4)  # standard deviations, and how often they are measured again
_SMOOTH_MM = 1.0


class NotSegmented(StrEnum):
    """Why a point or box gives no lesion; `GeometryRefused.reason`."""

    SEED_OUTSIDE = "SEED_OUTSIDE"  # the point or the middle of the box is not in the image
    SEED_BOX = "SEED_BOX"  # less than three voxels wide, or wider than the study searches
    NOTHING_FOUND = "NOTHING_FOUND"
    LEAKED = "SEGMENTATION_LEAKED"  # it reaches the end of what was searched
    METHODS_DISAGREE = "METHODS_DISAGREE"  # more than the study allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How much a segmentation can be believed.

    agreement: least Dice with the two other methods, 1 where all find the same. contrast_to_noise: difference of the means
    inside and 1 to 5 mm outside over the deviation outside. leaked: it touches the box that was searched, and may go on.
    """

    method: Method
    agreement: float
    contrast_to_noise: float
    leaked: bool


def from_mark(volume: Volume, *, mark_mm: Sequence[float], reach_mm: float, method: Method) -> tuple[Volume, Quality]:
    """Return the volume with the lesion at a mark, LPS mm: around a point (3 numbers), or in a box (6, opposite corners).

    Around a point is searched as far as `reach_mm`; a box is searched itself, and is refused (SEED_BOX) where a side is longer
    than what would be searched around a point. Raises GeometryRefused as `from_box`.
    """
    first, second = np.array(mark_mm[:3]), np.array(mark_mm[-3:])
    if len(mark_mm) == 3:
        first, second = first - reach_mm, second + reach_mm
    elif np.abs(second - first).max() > 2 * reach_mm:
        raise GeometryRefused(NotSegmented.SEED_BOX)
    return from_box(volume, box_mm=np.stack([first, second]), method=method)


def from_box(volume: Volume, *, box_mm: Float, method: Method) -> tuple[Volume, Quality]:
    """Return the volume with the lesion in the middle of a box, (2, 3) opposite corners in LPS mm, and its quality.

    threshold: nearer to the mean HU of the seed than half-way to the box's median. region-growing: within 2.5 standard
    deviations of the mean of what was grown so far, closed by one voxel. watershed: of the gradient's magnitude, from the seed
    and from the box's faces. The first and last see HU smoothed by 1 mm. Of each the part at the seed, holes filled.
    Raises GeometryRefused with one of `NotSegmented`.
    Source: Adams and Bischof 1994 (doi 10.1109/34.295913); Meyer 1994 (doi 10.1016/0165-1684(94)90060-4).
    """
    where, seed = _searched(volume, box_mm)
    raw = np.ascontiguousarray(volume.voxels[where])
    sigma = [_SMOOTH_MM / size for size in volume.spacing_mm]
    hu = ndimage.gaussian_filter(raw, sigma, mode="nearest")
    near = _ball(hu.shape, middle=seed, spacing_mm=volume.spacing_mm)
    found = {
        one: _part(_drawn(raw, hu, near=near, seed=seed, method=one, spacing_mm=volume.spacing_mm), near=near)
        for one in METHODS
    }
    chosen = found[method]
    if not chosen.any():
        raise GeometryRefused(NotSegmented.NOTHING_FOUND)
    region: Mask = np.zeros(volume.voxels.shape, np.bool_)
    region[where] = chosen
    freeze(region)
    quality = Quality(
        method=method,
        agreement=min(dice(chosen, other) for one, other in found.items() if one != method),
        contrast_to_noise=_contrast(raw, chosen, spacing_mm=volume.spacing_mm),
        leaked=any(np.take(chosen, [0, -1], axis=axis).any() for axis in range(3)),
    )
    return replace(volume, region=region), quality


def dice(one: Mask, other: Mask) -> float:
    """Return twice the common part over both; 0 where both are empty."""
    both = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * int(np.count_nonzero(one & other)) / int(both) if both else 0.0


def _searched(volume: Volume, box_mm: Float) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """Return the box in voxels, as far as the image goes, and its middle within it."""
    into = np.linalg.inv(volume.affine)
    corners = np.array([[box_mm[at, axis] for axis, at in enumerate(ends)] for ends in itertools.product((0, 1), repeat=3)])
    voxels = corners @ into[:3, :3].T + into[:3, 3]
    middle = voxels.mean(axis=0).round()
    if not np.isfinite(voxels).all() or (middle < 0).any() or (middle >= volume.voxels.shape).any():
        raise GeometryRefused(NotSegmented.SEED_OUTSIDE)
    low = np.clip(np.floor(voxels.min(axis=0)).astype(int), 0, None)
    high = np.minimum(np.ceil(voxels.max(axis=0)).astype(int) + 1, volume.voxels.shape)
    if (high - low).min() < 3:
        raise GeometryRefused(NotSegmented.SEED_BOX)
    where = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    return where, tuple((middle.astype(int) - low).tolist())


def _ball(shape: tuple[int, ...], *, middle: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Mask:
    grids = np.ogrid[tuple(slice(0, size) for size in shape)]
    away = sum(((grid - at) * size) ** 2 for grid, at, size in zip(grids, middle, spacing_mm, strict=True))
    ball: Mask = np.asarray(away <= SEED_MM**2)
    return ball


def _drawn(
    raw: Float32, hu: Float32, *, near: Mask, seed: tuple[int, ...], method: Method, spacing_mm: tuple[float, ...]
) -> Mask:
    if method == "threshold":
        seeded, around = float(hu[near].mean()), float(np.median(hu))
        return np.asarray(np.abs(hu - seeded) < abs(seeded - around) / 2)
    if method == "region-growing":
        image = sitk.GetImageFromArray(raw)
        times, again = _GROWN
        grown = sitk.ConfidenceConnected(image, [tuple(reversed(seed))], again, times, 1, 1)  # type: ignore[no-untyped-call]
        return ndimage.binary_closing(np.pad(sitk.GetArrayFromImage(grown) > 0, 1))[1:-1, 1:-1, 1:-1]
    slopes = [np.gradient(hu, size, axis=axis) for axis, size in enumerate(spacing_mm)]
    markers = np.full(hu.shape, 2, np.int32)
    markers[1:-1, 1:-1, 1:-1] = 0
    markers[near] = 1
    steep = np.sqrt(sum(slope**2 for slope in slopes))
    return np.asarray(watershed(steep, markers) == 1)  # type: ignore[no-untyped-call]


def _part(drawn: Mask, *, near: Mask) -> Mask:
    """Return the connected part that has most of the seed, without holes; empty where none has any."""
    labels, _ = ndimage.label(drawn)
    sizes = np.bincount(labels[near])
    sizes[0] = 0
    if not sizes.any():
        return np.zeros(drawn.shape, np.bool_)
    part: Mask = ndimage.binary_fill_holes(labels == sizes.argmax())
    return part


def _contrast(hu: Float32, inside: Mask, *, spacing_mm: tuple[float, ...]) -> float:
    away = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    ring = (away >= RING_MM[0]) & (away <= RING_MM[1])
    if not ring.any():
        return math.nan
    around = hu[ring].astype(np.float64)
    spread = float(around.std())
    apart = abs(float(hu[inside].mean(dtype=np.float64)) - float(around.mean()))
    return apart / spread if spread > 0 else math.inf if apart else math.nan
