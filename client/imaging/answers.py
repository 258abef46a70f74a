"""The answer of the guard's child, checked as if a stranger had written it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.exchange import AXES_MOST
from client.imaging.found import Contours, Found, Frames, Identity, Projection, Segmentation, Slice
from client.imaging.limits import Limits
from client.inside import Acquisition, Float, Float32, Mask, freeze

# What a lying child's answer raises.
SENSELESS = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
PHASES_MOST = 16  # attributes by which slices are told apart: every pair of them is tried


def parse(head: dict[str, Any], *, arrays: dict[str, NDArray[Any]], with_pixels: bool, limits: Limits) -> Found:
    """Return what the child says that a file holds; raises one of SENSELESS where that cannot be or passes `limits`."""
    identity = Identity(**{name: _text(value) for name, value in head["identity"].items()})
    if head["kind"] == "contours":
        return _contours(identity, head=head, arrays=arrays if with_pixels else None, points_most=limits.contour_points)
    if head["kind"] == "projection":
        return _projection(identity, head=head, pixels=arrays["pixels"] if with_pixels else None, most=limits.pixels)
    if head["kind"] == "frames":
        pixels = arrays["pixels"] if with_pixels else None
        return _frames(identity, head=head, placed=arrays["placed"], phase=arrays["phase"], pixels=pixels, limits=limits)
    orientation, spacing_mm = _numbers(head["orientation"], 6), _numbers(head["spacing_mm"], 2)
    if head["kind"] == "seg":
        planes: Mask | None = None
        positions_mm: Float | None = None
        if with_pixels:
            count, rows, columns = _sizes(head["shape"], least=0, most=limits.region_voxels)
            bits, positions_mm = arrays["bits"], arrays["positions_mm"]
            if (
                positions_mm.shape != (count, 3)
                or not np.isfinite(positions_mm).all()
                or bits.size * 8 < count * rows * columns
            ):
                raise ValueError("planes")
            flat = np.unpackbits(bits, count=count * rows * columns, bitorder="little")
            planes = flat.reshape(count, rows, columns).view(np.bool_)
            freeze(planes)
        return Segmentation(
            identity=identity,
            of_series=_text(head["of_series"]),
            orientation=orientation,
            spacing_mm=spacing_mm,
            planes=planes,
            positions_mm=positions_mm,
            references=_texts(head["references"]),
        )
    rows, columns = _sizes(head["shape"], most=limits.pixels)
    pixels = arrays["pixels"] if with_pixels else None
    if pixels is not None and (pixels.shape != (rows, columns) or np.isinf(pixels).any()):
        raise ValueError("pixels")
    if len(head["phase"]) > PHASES_MOST:
        raise ValueError("phase")
    return Slice(
        identity=identity,
        acquisition=_acquisition(head["acquisition"]),
        rows=rows,
        columns=columns,
        position_mm=_numbers(head["position_mm"], 3),
        orientation=orientation,
        spacing_mm=spacing_mm,
        pixels=pixels,
        modality=_text(head["modality"]),
        phase=tuple(_or_nan(value) for value in head["phase"]),
    )


def _acquisition(made: dict[str, Any]) -> Acquisition:
    return Acquisition(
        manufacturer=_text(made["manufacturer"]),
        kernel=_text(made["kernel"]),
        kvp=_or_nan(made["kvp"]),
        slice_thickness_mm=_or_nan(made["slice_thickness_mm"]),
    )


def _projection(identity: Identity, *, head: dict[str, Any], pixels: Float32 | None, most: int) -> Projection:
    rows, columns = _sizes(head["shape"], most=most)
    if pixels is not None and (pixels.shape != (rows, columns) or np.isinf(pixels).any()):
        raise ValueError("pixels")
    return Projection(
        identity=identity,
        acquisition=_acquisition(head["acquisition"]),
        modality=_text(head["modality"]),
        rows=rows,
        columns=columns,
        spacing_mm=_numbers(head["spacing_mm"], 2),
        pixels=pixels,
    )


def _frames(
    identity: Identity, *, head: dict[str, Any], placed: Float, phase: Float, pixels: Float32 | None, limits: Limits
) -> Frames:
    count, rows, columns = _sizes(head["shape"], most=limits.frame_voxels)
    if count > limits.frames or placed.shape != (count, 11) or not np.isfinite(placed).all():
        raise ValueError("placed")
    if phase.ndim != 2 or len(phase) != count or phase.shape[1] > PHASES_MOST or np.isinf(phase).any():
        raise ValueError("phase")
    if pixels is not None and (pixels.shape != (count, rows, columns) or np.isinf(pixels).any()):
        raise ValueError("pixels")
    made = _acquisition(head["acquisition"])
    return Frames(
        slices=tuple(
            Slice(
                identity=replace(identity, instance=f"{identity.instance}#{number}"),
                acquisition=made,
                rows=rows,
                columns=columns,
                position_mm=placed[number, :3],
                orientation=placed[number, 3:9],
                spacing_mm=placed[number, 9:],
                pixels=None if pixels is None else pixels[number],
                modality=_text(head["modality"]),
                phase=tuple(phase[number].tolist()),
            )
            for number in range(count)
        )
    )


def _contours(
    identity: Identity, *, head: dict[str, Any], arrays: dict[str, NDArray[Any]] | None, points_most: int
) -> Contours:
    of_series, references = _text(head["of_series"]), _texts(head["references"])
    if arrays is None:
        return Contours(identity=identity, of_series=of_series, points_mm=None, ends=None, references=references)
    points, ends = arrays["points_mm"], arrays["ends"]
    if (
        points.ndim != 2
        or points.shape[1] != 3
        or len(points) > points_most
        or not np.isfinite(points).all()
        or ends.ndim != 2
        or ends.shape[1] != 2
    ):
        raise ValueError("contours")
    if not len(ends) or not np.isfinite(ends).all() or np.diff(ends[:, 0], prepend=0).min() < 3 or ends[-1, 0] != len(points):
        raise ValueError("ends")
    return Contours(identity=identity, of_series=of_series, points_mm=points, ends=ends, references=references)


def _sizes(values: Any, *, least: int = 1, most: int) -> tuple[int, ...]:  # noqa: ANN401
    sizes = tuple(int(size) for size in values)
    if len(sizes) > AXES_MOST or min(sizes, default=0) < least or math.prod(sizes) > most:
        raise ValueError("shape")
    return sizes


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError("text")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError("texts")
    return tuple(_text(value) for value in values)


def _or_nan(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _numbers(values: object, count: int) -> Float:
    array = np.asarray(values, np.float64)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ValueError("numbers")
    return array
