"""What several families need of a region: its outline, its longest axial chord, its principal axes."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

from client.inside import Float, Mask, Volume

_CONVEX_LEAST = 16  # below this many points a hull saves nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Chord:
    """The longest axial chord (RECIST): its length, the extent across it, and its direction (y, x) in the slice."""

    length_mm: float
    across_mm: float
    direction: Float  # (2,): unit, sense without meaning; nan where chords of different directions tie all around


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The principal axes of the voxel centres: variances (mm2), largest first, and unit directions as columns, (z, y, x)."""

    variances: Float  # (3,)
    directions: Float  # (3, 3)


def cropped(mask: Mask) -> Mask:
    """Return the bounding box of a non-empty mask, with one empty voxel all around."""
    box = tuple(
        slice(int(where[0]), int(where[-1]) + 1)
        for where in (
            np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
        )
    )
    return np.pad(mask[box], 1)


def outline(mask: Mask, *, spacing_mm: tuple[float, ...]) -> Float:
    """Return the points, mm in array axes, half way between a voxel inside and its neighbour outside, (point, axis).

    These are the vertices of marching squares or cubes at level 0.5 (IBSI 3.1); the array's own border is not an outline.
    """
    points = []
    for axis in range(mask.ndim):
        edges = np.argwhere(np.diff(mask, axis=axis)).astype(np.float64)
        edges[:, axis] += 0.5
        points.append(edges)
    return np.concatenate(points) * np.array(spacing_mm)


def extreme(points: Float) -> Float:
    """Return the points that can be the end of a longest chord: the corners of the convex hull."""
    if len(points) < _CONVEX_LEAST:
        return points
    try:
        corners: Float = points[ConvexHull(points).vertices]
    except QhullError:  # all in one plane or line
        return points
    return corners


def longest_chord(volume: Volume) -> Chord | None:
    """Return the longest chord between outline points of one axial slice, None without a region.

    Pixels make neighbouring chords tie, so the direction is the axial mean of all chords of that slice that are less than half
    a pixel shorter. Source: RECIST 1.1 (Eisenhauer et al. 2009); Mardia and Jupp, Directional Statistics, 1.5 (axial mean).
    """
    if volume.region is None or not volume.region.any():
        return None
    best: tuple[float, Float] = (0.0, np.empty((0, 2)))
    mask = cropped(volume.region)
    for plane in mask[mask.any(axis=(1, 2))]:
        corners = extreme(outline(plane, spacing_mm=volume.spacing_mm[1:]))
        length = float(pdist(corners).max())
        if length > best[0] + 1e-9:
            best = length, corners
    length, corners = best
    direction = _axial_mean(corners, least_mm=length - min(volume.spacing_mm[1:]) / 2)
    distances = squareform(pdist(corners))
    one, other = np.unravel_index(distances.argmax(), distances.shape)
    along = (corners[other] - corners[one]) / length
    across = corners @ np.array([-along[1], along[0]])
    return Chord(length_mm=length, across_mm=float(np.ptp(across)), direction=direction)


def _axial_mean(points: Float, *, least_mm: float) -> Float:
    one, other = np.triu_indices(len(points), 1)
    chords = points[other] - points[one]
    lengths = np.hypot(chords[:, 0], chords[:, 1])
    long = lengths >= least_mm
    doubled = ((chords[long, 1] + 1j * chords[long, 0]) / lengths[long]) ** 2  # twice the angle from x towards y
    mean = doubled.mean()
    if abs(mean) < 0.5:  # as good as any direction
        return np.full(2, np.nan)
    half = np.angle(mean) / 2
    return np.array([np.sin(half), np.cos(half)])


def principal_axes(volume: Volume) -> Axes | None:
    """Return the principal axes, None below two voxels. The covariance divides by n - 1 (IBSI 3.1.9)."""
    if volume.region is None or np.count_nonzero(volume.region) < 2:
        return None
    centres_mm = np.argwhere(volume.region) * np.array(volume.spacing_mm)
    variances, directions = np.linalg.eigh(np.cov(centres_mm.T))
    variances[variances < 1e-9 * max(variances[-1], 1e-300)] = 0.0
    return Axes(variances=variances[::-1], directions=directions[:, ::-1])
