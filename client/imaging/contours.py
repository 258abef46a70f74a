"""Contours that were drawn on a series become the planes of a region, on the grid of its slices."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from skimage.measure import grid_points_in_poly

from client.imaging.found import Contours, Reason, Segmentation, Slice
from client.inside import Float, Mask

FLAT_MM = 0.2  # how far the points of one contour may lie from one plane
IN_PLANE = 0.5  # how far from its slice a contour may lie, of the distance between slices


def filled(contours: Contours, *, slices: Sequence[Slice]) -> Segmentation | Reason:
    """Return the region inside the contours, a plane a slice that has any; or CONTOUR_OFF_SLICE, or NO_GEOMETRY.

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
    planes: dict[tuple[int, int], Mask] = {}
    start = 0
    for end, region in contours.ends.astype(np.int64).tolist():
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
        inside = _inside(corners, rows=first.rows, columns=first.columns)
        planes[at, region] = planes[at, region] ^ inside if (at, region) in planes else inside
    drawn = sorted({at for at, _ in planes})
    united = np.stack([np.any([plane for (where, _), plane in planes.items() if where == at], axis=0) for at in drawn])
    return Segmentation(
        identity=contours.identity,
        of_series=contours.of_series,
        orientation=first.orientation,
        spacing_mm=first.spacing_mm,
        planes=united,
        positions_mm=np.stack([slices[at].position_mm for at in drawn]),
        references=contours.references,
    )


def headless(contours: Contours) -> Contours:
    """Return the contours without their points, as a first reading keeps them."""
    return replace(contours, points_mm=None, ends=None)


def _inside(corners: Float, *, rows: int, columns: int) -> Mask:
    """Return which voxel centres of a slice lie inside one closed polygon, (row, column) corners."""
    found: Mask = np.zeros((rows, columns), np.bool_)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, [rows, columns])
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, [rows, columns])
    shape = high - low
    if shape.min() > 0:
        found[low[0] : high[0], low[1] : high[1]] = grid_points_in_poly(tuple(shape), corners - low)  # type: ignore[no-untyped-call]
    return found
