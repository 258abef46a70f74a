"""The geometry gate: slices become a volume only where their positions prove a regular, unsheared grid.

Only positions and orientations are believed: tags such as Gantry/Detector Tilt or Spacing Between Slices mean different things
for different makers.
"""

import itertools
import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from client.imaging.straighten import Way, straightened, way
from client.inside import Float, Float32, Mask, Scan, Volume, freeze
from common.errors import GeometryRefused
from common.modality import PLANAR
from common.recipe import Irregular

SPACING_RELATIVE, SPACING_MM = 0.01, 0.05
DUPLICATE_MM = 1e-3
TILT_DEG = 0.1
GRID_VOXELS = 0.1  # how far a voxel of the region may lie from a voxel of the image
AIR_HU = -1024.0


class Gate(StrEnum):
    """Why a series is not a volume; `GeometryRefused.reason`."""

    SINGLE_SLICE = "SINGLE_SLICE"
    MIXED_FRAME_OF_REFERENCE = "MIXED_FRAME_OF_REFERENCE"
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    MIXED_SPACING = "MIXED_SPACING"
    DUPLICATE_POSITION = "DUPLICATE_POSITION"
    UNEVEN_SPACING = "UNEVEN_SPACING"
    SHEARED = "SHEARED"
    REGION_OFF_GRID = "REGION_OFF_GRID"  # the segmentation was drawn on another grid
    REGION_OUTSIDE = "REGION_OUTSIDE"
    REGION_IN_PADDING = "REGION_IN_PADDING"  # the scanner measured nothing there


def assemble(scan: Scan, *, irregular: Irregular = "refuse", whole: bool = True) -> Volume:
    """Return the volume of `scan`, axes (z, y, x) along patient S, P and L as nearly as the grid allows.

    The order of the slices in `scan` does not matter. Padding (nan) becomes air, of another modality than CT the least that was
    measured; `padding` says where, and no region may touch it. The region is carried over by patient coordinates. A radiograph
    passes no gate: it becomes one slice in its own coordinates, and its region is what was measured, or where not all of it is
    looked at (`whole`) what was drawn on it, pixel on pixel.
    `irregular` says what becomes of a tilted or unevenly spaced stack: it is refused, or resampled through the true position of
    each slice (straighten.py) unless slices are missing.
    Raises GeometryRefused with one of `Gate`.
    Source: PS3.3 C.7.6.2; Volume and gate after imaging.md section 3 of the house's reference, oracle highdicom.
    """
    if scan.modality in PLANAR:
        return _planar(scan, whole=whole)
    order = _order(scan)
    flaw = _irregularity(scan, order=order)
    row, column = scan.orientations[0, :3], scan.orientations[0, 3:]
    in_plane = np.stack([column * scan.spacings_mm[0, 0], row * scan.spacings_mm[0, 1]], axis=1)
    affine, drawn = np.eye(4), None
    if flaw is None:
        voxels = _in_order(scan.pixels, order=order)
        step_mm = (scan.positions_mm[order[-1]] - scan.positions_mm[order[0]]) / (len(order) - 1)
        affine[:3, 3] = scan.positions_mm[order[0]]
    else:
        by = _way(scan, order=order) if irregular == "resample" else None
        if by is None:
            raise GeometryRefused(flaw)
        voxels = straightened(scan.pixels[order], by=by, outside=np.nan)
        drawn = _on_slices(scan, order=order)
        if drawn is not None:
            drawn = straightened(drawn.astype(np.float32), by=by, outside=0.0) >= 0.5
        step_mm = np.cross(row, column) * by.step_mm
        affine[:3, 3] = scan.positions_mm[order[0]] + in_plane @ by.start
    affine[:3, :3] = np.concatenate([step_mm[:, np.newaxis], in_plane], axis=1)
    axes, flips, affine = _patient_axes(affine, shape=voxels.shape)
    voxels = np.ascontiguousarray(np.flip(voxels.transpose(axes), flips))
    if drawn is None:
        region = _region(scan, affine=affine, shape=voxels.shape)
    else:
        region = np.ascontiguousarray(np.flip(drawn.transpose(axes), flips))
    voxels, padding = _filled(voxels, modality=scan.modality)
    if region is not None:
        if padding is not None and (region & padding).any():
            raise GeometryRefused(Gate.REGION_IN_PADDING)
        freeze(region)
    z, y, x = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(
        patient=scan.patient,
        series=scan.series,
        modality=scan.modality,
        voxels=voxels,
        affine=affine,
        spacing_mm=(z, y, x),
        acquisition=scan.acquisition,
        region=region,
        padding=padding,
    )


def _planar(scan: Scan, *, whole: bool) -> Volume:
    (pixels,) = scan.pixels
    voxels, padding = _filled(pixels[np.newaxis], modality=scan.modality)
    measured: Mask = np.ones(voxels.shape, np.bool_) if padding is None else ~padding
    region = measured if whole else _drawn(scan, measured=measured)
    if region is not None:
        freeze(region)
    between_rows, between_columns = scan.spacings_mm[0].tolist()
    return Volume(
        patient=scan.patient,
        series=scan.series,
        modality=scan.modality,
        voxels=voxels,
        affine=np.array([[0, 0, between_columns, 0], [0, between_rows, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float64),
        spacing_mm=(1.0, between_rows, between_columns),
        acquisition=scan.acquisition,
        region=region,
        padding=padding,
    )


def _drawn(scan: Scan, *, measured: Mask) -> Mask | None:
    """Return what was drawn on a radiograph, (1, row, column)."""
    if scan.region_planes is None:
        return None
    region: Mask = np.logical_or.reduce(scan.region_planes, axis=0, keepdims=True)
    if region.shape != measured.shape:
        raise GeometryRefused(Gate.REGION_OFF_GRID)
    if (region & ~measured).any():
        raise GeometryRefused(Gate.REGION_IN_PADDING)
    return region


def _in_order(stack: Float32, *, order: NDArray[np.int64]) -> Float32:
    """Return the slices in `order`: those of `stack` itself where they lie so, one way or the other, and else a copy."""
    if (np.diff(order) == 1).all():
        return stack
    return stack[::-1] if (np.diff(order) == -1).all() else stack[order]


def _filled(voxels: Float32, *, modality: str) -> tuple[Float32, Mask | None]:
    """Return the voxels with what stands for no measurement where there was none, and where; as they are and None without."""
    padding: Mask = np.isnan(voxels)
    if not padding.any():
        return voxels, None
    nothing = np.nanmin(voxels) if modality != "CT" and not padding.all() else AIR_HU
    freeze(padding)
    return np.where(padding, np.float32(nothing), voxels), padding


def _order(scan: Scan) -> NDArray[np.int64]:
    """Return the order of the slices along their normal; raises GeometryRefused where they are no stack at all."""
    if len(scan.pixels) < 2:
        raise GeometryRefused(Gate.SINGLE_SLICE)
    if len(set(scan.frame_of_reference)) > 1:
        raise GeometryRefused(Gate.MIXED_FRAME_OF_REFERENCE)
    if np.ptp(scan.orientations, axis=0).max() > 1e-4:
        raise GeometryRefused(Gate.MIXED_ORIENTATION)
    if np.ptp(scan.spacings_mm, axis=0).max() > 1e-4:
        raise GeometryRefused(Gate.MIXED_SPACING)
    along = scan.positions_mm @ _normal(scan)
    order = np.argsort(along, kind="stable")
    if np.diff(along[order]).min() < DUPLICATE_MM:
        raise GeometryRefused(Gate.DUPLICATE_POSITION)
    return order


def _normal(scan: Scan) -> Float:
    normal = np.cross(scan.orientations[0, :3], scan.orientations[0, 3:])
    unit: Float = normal / np.linalg.norm(normal)
    return unit


def _irregularity(scan: Scan, *, order: NDArray[np.int64]) -> Gate | None:
    """Return why a stack is no regular grid; None where it is one."""
    normal = _normal(scan)
    gaps = np.diff(scan.positions_mm[order] @ normal)
    usual = float(np.median(gaps))
    if np.abs(gaps - usual).max() > max(SPACING_RELATIVE * usual, SPACING_MM):
        return Gate.UNEVEN_SPACING
    moved = scan.positions_mm[order] - scan.positions_mm[order[0]]
    sideways = np.linalg.norm(moved - np.outer(moved @ normal, normal), axis=1)
    if (sideways > np.maximum(SPACING_MM, math.tan(math.radians(TILT_DEG)) * (moved @ normal))).any():
        return Gate.SHEARED
    return None


def _way(scan: Scan, *, order: NDArray[np.int64]) -> Way | None:
    row, column = scan.orientations[0, :3], scan.orientations[0, 3:]
    shape = scan.pixels.shape[1], scan.pixels.shape[2]
    return way(scan.positions_mm[order], row=row, column=column, spacing_mm=scan.spacings_mm[0], shape=shape)


def _on_slices(scan: Scan, *, order: NDArray[np.int64]) -> Mask | None:
    """Return the region on the stack's own slices, in `order`: each plane must lie in a slice, voxel on voxel."""
    planes, positions_mm = scan.region_planes, scan.region_positions_mm
    orientation, spacing_mm = scan.region_orientation, scan.region_spacing_mm
    if planes is None or positions_mm is None or orientation is None or spacing_mm is None:
        return None
    alike = planes.shape[1:] == scan.pixels.shape[1:] and np.allclose(spacing_mm, scan.spacings_mm[0], rtol=1e-4)
    if not alike or not np.allclose(orientation, scan.orientations[0], atol=1e-4):
        raise GeometryRefused(Gate.REGION_OFF_GRID)
    region: Mask = np.zeros(scan.pixels.shape, np.bool_)
    at_mm = scan.positions_mm[order]
    for plane, position_mm in zip(planes, positions_mm, strict=True):
        away_mm = np.linalg.norm(at_mm - position_mm, axis=1)
        if away_mm.min() > GRID_VOXELS * spacing_mm.min():
            raise GeometryRefused(Gate.REGION_OFF_GRID)
        region[away_mm.argmin()] |= plane
    if _all_apart(np.flatnonzero(region.any(axis=(1, 2)))):
        raise GeometryRefused(Gate.REGION_OFF_GRID)
    return region


def _all_apart(heights: NDArray[np.int64]) -> bool:
    """Tell whether no two of the slices that a region has are neighbours: it was drawn on a coarser stack."""
    return len(heights) > 1 and int(np.diff(heights).min()) > 1


def _patient_axes(affine: Float, *, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], Float]:
    """Return how to transpose, then flip, an array so that its axes run along S, P, L, and the affine that then holds."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.eye(3)[[2, 1, 0]]  # S, P, L in LPS
    axes = max(itertools.permutations(range(3)), key=lambda p: sum(abs(wanted[i] @ cosines[:, p[i]]) for i in range(3)))
    turned = affine.copy()
    turned[:3, :3] = affine[:3, axes]
    flips = []
    for i, axis in enumerate(axes):
        if wanted[i] @ turned[:3, i] < 0:
            flips.append(i)
            turned[:3, 3] += turned[:3, i] * (shape[axis] - 1)
            turned[:3, i] *= -1
    return axes, tuple(flips), turned


def _region(scan: Scan, *, affine: Float, shape: tuple[int, ...]) -> Mask | None:
    """Return the region on the volume's grid, point by point through patient coordinates, never by slice index."""
    planes, positions_mm = scan.region_planes, scan.region_positions_mm
    orientation, spacing_mm = scan.region_orientation, scan.region_spacing_mm
    if planes is None or positions_mm is None or orientation is None or spacing_mm is None:
        return None
    region: Mask = np.zeros(shape, np.bool_)
    plane, row, column = np.nonzero(planes)
    if not len(plane):
        return region
    into = np.linalg.inv(affine)
    steps = into[:3, :3] @ np.stack(
        [orientation[3:] * spacing_mm[0], orientation[:3] * spacing_mm[1]], axis=1
    )  # a row, a column
    if np.abs(np.sort(np.abs(steps), axis=0) - np.array([[0.0], [0.0], [1.0]])).max() * max(planes.shape[1:]) > 2 * GRID_VOXELS:
        raise GeometryRefused(Gate.REGION_OFF_GRID)
    starts = positions_mm @ into[:3, :3].T + into[:3, 3]
    exact = starts[plane] + np.outer(row, steps[:, 0]) + np.outer(column, steps[:, 1])
    index = np.rint(exact).astype(np.int64)
    across = int(np.argmin(np.abs(steps).max(axis=1)))  # the axis from plane to plane
    if np.abs(exact - index).max() > GRID_VOXELS or _all_apart(np.unique(index[:, across])):
        raise GeometryRefused(Gate.REGION_OFF_GRID)
    if (index < 0).any() or (index >= np.array(shape)).any():
        raise GeometryRefused(Gate.REGION_OUTSIDE)
    region[tuple(index.T)] = True
    return region
