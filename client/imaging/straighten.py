"""A tilted or unevenly spaced stack becomes a regular one, every slice taken from where it truly lies."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from client.inside import Float, Float32

GAP_MOST = 1.9  # of the usual distance; two of them are a missing slice, which nobody can fill in
GROWN_MOST = 2.0  # how many times a side of the picture may grow to hold all slices of a tilted stack
VOXELS_MOST = 1 << 29  # 2 GiB as float32, as of a series that is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a stack is resampled: where its slices lie, and the regular grid that holds all of them."""

    heights_mm: Float  # (slice,): along the normal, from the first
    shifts: Float  # (slice, 2): rows and columns from the grid's first voxel to the slice's
    shape: tuple[int, int, int]  # of the grid
    step_mm: float  # from slice to slice of the grid: the median distance
    start: Float  # (2,): rows and columns from the first slice's first voxel to the grid's, <= 0


def way(positions_mm: Float, *, row: Float, column: Float, spacing_mm: Float, shape: tuple[int, int]) -> Way | None:
    """Return how a stack is resampled; None where slices are missing, or tilt would double a side or pass VOXELS_MOST.

    positions_mm (slice, 3), LPS, in the order along the normal, no two at one height; `row` and `column` are unit vectors,
    `spacing_mm` lies between rows and between columns, `shape` is that of a slice. Only positions count, no tag.
    """
    moved = positions_mm - positions_mm[0]
    heights = moved @ np.cross(row, column)
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if gaps.max() > GAP_MOST * usual:
        return None
    aside = np.stack([moved @ column, moved @ row], axis=1) / spacing_mm
    aside = aside.round(6)  # 1e-15 voxels would cost the outermost row
    start = np.floor(aside.min(axis=0))
    sides = np.array(shape) + np.ceil(aside.max(axis=0)) - start
    if (sides > GROWN_MOST * np.array(shape)).any():
        return None
    count = math.floor(round(float(heights[-1]) / usual, 6)) + 1
    rows, columns = (int(side) for side in sides)
    if count * rows * columns > VOXELS_MOST:
        return None
    return Way(heights_mm=heights, shifts=aside - start, shape=(count, rows, columns), step_mm=usual, start=start)


def straightened(stack: Float32, *, by: Way, outside: float) -> Float32:
    """Return a stack (slice, row, column) on the regular grid, linear between pixels and between slices.

    `outside` stands where the grid has no slice; nan spreads to whatever would be interpolated from it.
    Source: as IBSI resamples (reference manual, section 2.4), in each slice and then along the normal.
    """
    made = np.empty(by.shape, np.float32)
    held: dict[int, Float32] = {}

    def placed(at: int) -> Float32:
        if at not in held:
            for old in [one for one in held if one < at - 1]:
                del held[old]
            plane = np.full(by.shape[1:], outside, np.float32)
            plane[: stack.shape[1], : stack.shape[2]] = stack[at]
            held[at] = (
                ndimage.shift(plane, by.shifts[at], order=1, mode="constant", cval=outside) if by.shifts[at].any() else plane
            )
        return held[at]

    for number in range(by.shape[0]):
        height = number * by.step_mm
        above = min(int(np.searchsorted(by.heights_mm, height - 1e-9)), len(by.heights_mm) - 1)
        if above == 0 or abs(by.heights_mm[above] - height) < 1e-6:
            made[number] = placed(above)
            continue
        part = np.float32((height - by.heights_mm[above - 1]) / (by.heights_mm[above] - by.heights_mm[above - 1]))
        made[number] = (1 - part) * placed(above - 1) + part * placed(above)
    return made
