"""Pictures of a lesion: an axial slice in grey, its region's outline, and the lines that were measured, as PNG bytes."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from client.inside import Float, Float32, Mask, Volume
from client.measure import region

SIDE_MOST = 4096
SIDE_LEAST = 512  # pixels of the shorter side, so that a small slice can be looked at
OUTLINE, LONG, SHORT = (255, 80, 60), (255, 220, 0), (0, 200, 255)


def of_slice(volume: Volume, *, z: int, window: tuple[float, float]) -> bytes:
    """Return an axial slice, `window` from black to white, with the outline of the region in red; patient R is on the left.

    PNG, square pixels of the volume's in-plane spacing; raises nothing for a slice without a region.
    """
    plane = None if volume.region is None else volume.region[z]
    return _png(_coloured(_grey(volume.voxels[z], window=window), plane=plane), spacing_mm=volume.spacing_mm[1:])


def measured(volume: Volume, *, chord: region.Chord, window: tuple[float, float]) -> bytes:
    """Return the slice of the longest chord with the region's outline, the chord (yellow) and the extent across it (blue)."""
    plane = None if volume.region is None else volume.region[chord.slice]
    picture = _coloured(_grey(volume.voxels[chord.slice], window=window), plane=plane)
    lines = [(chord.ends, LONG)]
    if plane is not None:
        lines.append((across(plane, chord=chord, spacing_mm=volume.spacing_mm[1:]), SHORT))
    return _png(picture, spacing_mm=volume.spacing_mm[1:], lines=lines)


def edges(channel: Float32) -> bytes:
    """Return an edge channel, (row, column), from black to white where it is strongest."""
    most = float(channel.max())
    return _png(
        _coloured(np.asarray(255 * channel / most if most > 0 else channel, np.uint8), plane=None), spacing_mm=(1.0, 1.0)
    )


def across(plane: Mask, *, chord: region.Chord, spacing_mm: tuple[float, ...]) -> Float:
    """Return the two ends, (row, column), of the extent across the chord: at right angles, between the farthest points."""
    points = region.outline(np.pad(plane, 1), spacing_mm=spacing_mm) - np.array(spacing_mm)
    ends = chord.ends * np.array(spacing_mm)
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    side = np.array([-along[1], along[0]])
    far = points[[int((points @ side).argmin()), int((points @ side).argmax())]]
    middle = float((far @ along).mean())
    found: Float = (np.outer([middle, middle], along) + np.outer(far @ side, side)) / np.array(spacing_mm)
    return found


def _grey(plane: Float32, *, window: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window
    return np.asarray(np.rint(255 * np.clip((plane - low) / (high - low), 0, 1)), np.uint8)


def _coloured(grey: NDArray[np.uint8], *, plane: Mask | None) -> NDArray[np.uint8]:
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    if plane is not None:
        picture[plane & ~ndimage.binary_erosion(plane)] = OUTLINE
    return picture


def _png(
    picture: NDArray[np.uint8],
    *,
    spacing_mm: tuple[float, ...],
    lines: list[tuple[Float, tuple[int, int, int]]] | None = None,
) -> bytes:
    rows, columns = picture.shape[:2]
    size_mm = rows * spacing_mm[0], columns * spacing_mm[1]
    scale = max(1.0 / min(spacing_mm), SIDE_LEAST / min(size_mm))
    size = tuple(min(SIDE_MOST, max(1, round(side * scale))) for side in reversed(size_mm))
    image = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for ends, colour in lines or []:
        places = [((column + 0.5) * size[0] / columns, (row + 0.5) * size[1] / rows) for row, column in ends.tolist()]
        pen.line([place for pair in places for place in pair], fill=colour, width=max(2, size[0] // 300))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
