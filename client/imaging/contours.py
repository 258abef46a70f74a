"""Contours that were drawn on a series become the planes of a region, on the grid of its slices."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from skimage.measure import grid_points_in_poly

from client.imaging.found import Contours, Reason, Segmentation, Slice
from client.inside import Float, Mask

FLAT_MM = 0.2  # how far the points of one contour may lie from one plane
WORK_MOST = 1 << 34  # points x voxels in their box, summed, half a minute; 800 x 250 x 250 in 300 slices stay below
IN_PLANE = 0.5  # how far from its slice a contour may lie, of the distance between slices


def filled(contours: Contours, *, slices: Sequence[Slice]) -> Segmentation | Reason:
    """Return the region inside the contours, a plane a slice that has any; or CONTOUR_OFF_SLICE, NO_GEOMETRY or TOO_LARGE.

    A voxel is inside if its centre is, by the even-odd rule over the contours of one region of interest in its slice, so that a
    contour within another is a hole; several regions of interest are united. Contours are placed by patient coordinates, each
    in the nearest slice, never by number.
    """
    if contours.points_mm is None or contours.ends is None:
        return Reason.UNREADABLE
    first = slices[0]
    if any(not np.allclose(one.orientation, first.orientation, atol=1e-4) for one in slices):
        return Reason.NO_GEOMETRY
    row, column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(row, column)
    heights = np.array([one.position_mm @ normal for one in slices])
    gaps = np.diff(np.unique(np.round(heights, 3)))
    usual = float(np.median(gaps)) if len(gaps) else 1.0
    united: dict[int, Mask] = {}  # by slice, of the regions of interest that are done
    planes: dict[int, Mask] = {}  # of the one in hand
    start, work, in_hand = 0, 0, contours.ends[0, 1]
    for end, region in contours.ends.astype(np.int64).tolist():
        if region != in_hand:
            _unite(planes, into=united)
            in_hand = region
        points = contours.points_mm[start:end]
        start = end
        along = points @ normal
        if np.ptp(along) > 2 * FLAT_MM:
            return Reason.CONTOUR_OFF_SLICE
        at = int(np.abs(heights - along.mean()).argmin())
        if abs(heights[at] - along.mean()) > IN_PLANE * usual + FLAT_MM:
            return Reason.CONTOUR_OFF_SLICE
        offset = points - slices[at].position_mm
        corners = np.stack([offset @ column, offset @ row], axis=1) / slices[at].spacing_mm
        if at not in planes:
            planes[at] = np.zeros((first.rows, first.columns), np.bool_)
            work += first.rows * first.columns
        box = _box(corners, rows=first.rows, columns=first.columns)
        work += planes[at][box].size * (len(points) + 4)
        if work > WORK_MOST:
            return Reason.TOO_LARGE
        planes[at][box] ^= _inside(corners, box=box)
    _unite(planes, into=united)
    drawn = sorted(united)
    return Segmentation(
        identity=contours.identity,
        of_series=contours.of_series,
        orientation=first.orientation,
        spacing_mm=first.spacing_mm,
        planes=np.stack([united[at] for at in drawn]),
        positions_mm=np.stack([slices[at].position_mm for at in drawn]),
        references=contours.references,
    )


def headless(contours: Contours) -> Contours:
    """Return the contours without their points, as a first reading keeps them."""
    return replace(contours, points_mm=None, ends=None)


def _unite(planes: dict[int, Mask], *, into: dict[int, Mask]) -> None:
    """Add the planes of a region of interest that is done, and begin the next."""
    for at, plane in planes.items():
        into[at] = into[at] | plane if at in into else plane
    planes.clear()


def _box(corners: Float, *, rows: int, columns: int) -> tuple[slice, slice]:
    """Return which rows and columns of a slice a polygon reaches."""
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, [rows, columns])
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, [rows, columns])
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def _inside(corners: Float, *, box: tuple[slice, slice]) -> Mask:
    """Return which voxel centres of a box lie inside one closed polygon, (row, column) corners."""
    low, shape = [side.start for side in box], tuple(side.stop - side.start for side in box)
    if min(shape) < 1:
        return np.zeros(shape, np.bool_)
    found: Mask = grid_points_in_poly(shape, corners - low)  # type: ignore[no-untyped-call]
    return found
