"""One lesion to voxels: a simulated chest wall and lung, the lesion of one reading in it, and the scanner's effects.

Rules, all public (texture, calcification, margin and spiculation are the reader's ratings):

- HU: texture 1 to 5 -> -620, -450, -300, -80, +35; calcification 1 to 4 adds 150; 5 (central) sets a core to +300.
- Inside: correlated texture of standard deviation 25 HU.
- Border: a linear ramp, centred on the outline, of 3.0, 2.2, 1.5, 1.0, 0.6 mm for margin 1 (ill-defined) to 5 (sharp).
- Spiculation 3, 4, 5: 3, 6, 9 strands of 5, 7, 9 mm around the outline, outside the region.

Frame: (z, y, x), millimetres from the middle of the field of view, patient LPS directions. The skin is anterior.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.draw import polygon2mask

if TYPE_CHECKING:
    from deploy.demo.lidc import Reading
    from deploy.demo.scanner import Scanner

Float32 = NDArray[np.float32]
Axes = tuple[Float32, Float32, Float32]  # z (n, 1, 1), y (n, 1), x (n,)
Generator = Any  # numpy's

TEXTURE_HU = {1: -620.0, 2: -450.0, 3: -300.0, 4: -80.0, 5: 35.0}
RAMP_MM = {1: 3.0, 2: 2.2, 3: 1.5, 4: 1.0, 5: 0.6}
STRANDS = {3: (3, 5.0), 4: (6, 7.0), 5: (9, 9.0)}  # number, length in mm
AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU = -1000.0, -850.0, -100.0, 50.0
PAD_MM = 12.0  # around the outline, for the strands
FINE = 2  # sub-pixels of the outline
VOXELS_MIN = 4  # of the region; an outline thinner than the slices is widened until it holds so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One simulated series: voxels (z, y, x) in whole HU, and the lesion on the same grid."""

    voxels_hu: NDArray[np.int16]
    region: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What stays the same when a patient is scanned again; millimetres from the middle of the field of view."""

    skin_mm: float  # y of the skin on the midline
    skin_radius_mm: float
    skin_slope: float  # mm of depth per mm along z
    wall_mm: float  # skin to lung
    fat_share: float
    lung_half_mm: tuple[float, float, float]
    lung_y_mm: float
    lesion_mm: tuple[float, float, float]
    ribs_mm: tuple[tuple[float, float], ...]  # x at z = 0, slope of x along z
    vessels: tuple[Float32, Float32]  # smooth fields, 3 mm grid


def anatomy(reading: "Reading", *, scanner: "Scanner", random: Generator) -> Anatomy:
    """Draw a patient in whose lung the lesion has room, at a depth that does not depend on the ratings."""
    half = scanner.matrix * scanner.pixel_mm / 2
    half_z = scanner.slices * scanner.thickness_mm / 2
    skin = -half + random.uniform(7.0, 11.0)
    wall = random.uniform(14.0, 28.0)
    lung_top, lung_bottom = skin + wall, half - 7.0
    room_y = max((lung_bottom - lung_top) / 2 - reading.diameter_mm / 2 - 5.0, 0.0)
    room_x = max(half - 10.0 - reading.diameter_mm / 2 - 6.0, 0.0) * 0.7
    room_z = min(max(half_z - 3.0 - reading.height_mm / 2 - 1.5 * scanner.thickness_mm, 0.0), 4.0)
    middle_y = (lung_top + lung_bottom) / 2
    spread = int(np.ceil((2 * half + 24) / 3.0))
    shape = (int(np.ceil((2 * half_z + 24) / 3.0)), spread, spread)
    fields = []
    for _ in range(2):
        field = ndimage.gaussian_filter(random.standard_normal(shape, dtype=np.float32), 2.0)
        fields.append(field / field.std())
    return Anatomy(
        skin_mm=skin,
        skin_radius_mm=random.uniform(90.0, 160.0),
        skin_slope=random.uniform(-0.08, 0.08),
        wall_mm=wall,
        fat_share=random.uniform(0.25, 0.6),
        lung_half_mm=(half_z - 1.6 * scanner.thickness_mm, (lung_bottom - lung_top) / 2, half - 7.0),
        lung_y_mm=middle_y,
        lesion_mm=(
            random.uniform(-room_z, room_z),
            middle_y + random.uniform(-room_y, room_y),
            random.uniform(-room_x, room_x),
        ),
        ribs_mm=tuple((x + random.uniform(-5, 5), random.uniform(-0.5, 0.5)) for x in (-26.0, 8.0)),
        vessels=(fields[0], fields[1]),
    )


def render(reading: "Reading", body: Anatomy, *, scanner: "Scanner", random: Generator, moved_mm: float = 0.0) -> Rendered:
    """Return one scan of `body` with the lesion of `reading`; `moved_mm` shifts the patient at random by up to that much.

    Guarantee: the region has the outline's size in mm to within a voxel, is not empty, and does not touch the border.
    """
    moved = random.uniform(-moved_mm, moved_mm, size=3) * (0.3, 1.0, 1.0)
    axes = _axes(scanner, moved)
    voxels = _body(body, axes, scanner=scanner)
    box, distance = _distance(reading, body, axes)
    voxels[box] = _insert(
        voxels[box], distance, reading, body, [axis.ravel()[part] for axis, part in zip(axes, box, strict=True)], random=random
    )
    region = np.zeros(voxels.shape, dtype=bool)
    region[box] = distance > 0
    voxels = _scan(voxels, scanner=scanner, random=random)
    return Rendered(voxels_hu=np.clip(np.rint(voxels), -1024, 3071).astype(np.int16), region=region)


def _axes(scanner: "Scanner", moved: NDArray[np.float64]) -> Axes:
    z = (np.arange(scanner.slices) - (scanner.slices - 1) / 2) * scanner.thickness_mm - moved[0]
    y, x = ((np.arange(scanner.matrix) - (scanner.matrix - 1) / 2) * scanner.pixel_mm - shift for shift in moved[1:])
    return z.astype(np.float32)[:, None, None], y.astype(np.float32)[:, None], x.astype(np.float32)


def _part(signed_mm: Float32, width_mm: float) -> Float32:
    """Share of a voxel that lies inside, from the signed distance to the surface (positive inside)."""
    return np.asarray(np.clip(signed_mm / np.float32(width_mm) + np.float32(0.5), 0, 1), dtype=np.float32)


def _body(body: Anatomy, axes: Axes, *, scanner: "Scanner") -> Float32:
    z, y, x = axes
    depth = y - (body.skin_mm + x**2 / (2 * body.skin_radius_mm) + body.skin_slope * z)
    width = scanner.pixel_mm
    fat_mm = 2.0 + body.fat_share * (body.wall_mm - 4.0)
    voxels = AIR_HU + (20.0 - AIR_HU) * _part(depth, width)
    voxels += (FAT_HU - 20.0) * _part(depth - 2.0, width)
    voxels += (MUSCLE_HU - FAT_HU) * _part(depth - fat_mm, width)
    for x_mm, slope in body.ribs_mm:
        bone = 1 - np.hypot((depth - (body.wall_mm - 5.0)) / 3.6, (x - x_mm - slope * z) / 8.0)
        voxels += 420.0 * _part(3.6 * bone, width) - 250.0 * _part(3.6 * bone - 1.3, width)
    half_z, half_y, half_x = body.lung_half_mm
    outside = ((z / half_z) ** 8 + ((y - body.lung_y_mm) / (half_y + 4.0)) ** 4 + (x / half_x) ** 4) ** 0.25
    lung = _part(np.minimum((1 - outside) * np.float32(half_x / 2), depth - body.wall_mm), width)
    air = LUNG_HU + 40.0 * (y - body.lung_y_mm) / half_y
    tubes = sum(_field(field, axes) ** 2 for field in body.vessels)
    air = air + (MUSCLE_HU - air) * np.exp(-tubes / np.float32(0.035))
    return np.asarray(voxels + lung * (air - voxels), dtype=np.float32)


def _field(field: Float32, axes: Axes) -> Float32:
    """Sample a smooth field on the 3 mm grid around the middle of the field of view."""
    scale = [float(axis.ravel()[1] - axis.ravel()[0]) / 3.0 for axis in axes]
    start = [float(axis.ravel()[0]) / 3.0 + (size - 1) / 2 for axis, size in zip(axes, field.shape, strict=True)]
    shape = tuple(axis.size for axis in axes)
    return ndimage.affine_transform(field, scale, offset=start, output_shape=shape, order=1, mode="nearest")


def outline(reading: "Reading") -> tuple[Float32, tuple[float, float, float], tuple[float, float, float]]:
    """Return the signed distance to the outline (mm, positive inside) in the slices of its scan, one more at each end.

    Also the sampling (z, y, x) in mm, and the index of the reading's centre. In a slice the distance is exact; across slices it
    is read by linear interpolation (shape-based interpolation, Raya and Udupa 1990); the ends close half a step beyond.
    """
    pad = int(np.ceil(PAD_MM / reading.pixel_mm))
    points = np.concatenate([contour.points for contour in reading.contours])
    low = points.min(axis=0) - pad
    columns, rows = (points.max(axis=0) + pad - low + 1) * FINE
    z_low = min(contour.z_mm for contour in reading.contours)
    count = round((max(contour.z_mm for contour in reading.contours) - z_low) / reading.step_mm) + 1
    inside = np.zeros((count, rows, columns), dtype=bool)
    for contour in sorted(reading.contours, key=lambda one: one.hole):
        level = round((contour.z_mm - z_low) / reading.step_mm)
        filled = polygon2mask((rows, columns), (contour.points - low)[:, ::-1] * FINE)  # type: ignore[no-untyped-call]
        inside[level] = inside[level] & ~filled if contour.hole else inside[level] | filled
    fine_mm = reading.pixel_mm / FINE
    distance = np.stack([_signed(plane, fine_mm) for plane in inside])
    ends = [plane - 2 * max(float(plane.max()), reading.step_mm / 2) for plane in (distance[0], distance[-1])]
    closed = np.concatenate([ends[0][None], distance, ends[1][None]]).astype(np.float32)
    z, y, x = reading.centre_mm
    column, row = (float(place / reading.pixel_mm - start) * FINE for place, start in zip((x, y), low, strict=True))
    centre = ((z - z_low) / reading.step_mm + 1, row, column)
    return closed, (reading.step_mm, fine_mm, fine_mm), centre


def _signed(plane: NDArray[np.bool_], pixel_mm: float) -> NDArray[np.float64]:
    if not plane.any():
        return np.full(plane.shape, -PAD_MM)
    return np.asarray(ndimage.distance_transform_edt(plane) - ndimage.distance_transform_edt(~plane)) * pixel_mm


def _distance(reading: "Reading", body: Anatomy, axes: Axes) -> tuple[tuple[slice, ...], Float32]:
    """Return the box of the grid around the lesion, and the signed distance in it."""
    distance, sampling, centre = outline(reading)
    box, start, scale = [], [], []
    for axis, place, size, step, middle in zip(axes, body.lesion_mm, distance.shape, sampling, centre, strict=True):
        line = axis.ravel()
        index = (line - place) / step + middle
        inside = np.flatnonzero((index >= 0) & (index <= size - 1))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
        start.append(float(index[inside[0]]))
        scale.append(float(line[1] - line[0]) / step)
    shape = tuple(part.stop - part.start for part in box)
    seen = ndimage.affine_transform(distance, scale, offset=start, output_shape=shape, order=1, mode="nearest")
    least = float(np.partition(seen, -VOXELS_MIN, axis=None)[-VOXELS_MIN])
    return tuple(box), seen if least > 0 else seen + np.float32(0.01 - least)


def _insert(
    voxels: Float32, distance: Float32, reading: "Reading", body: Anatomy, lines: list[Float32], *, random: Generator
) -> Float32:
    soft = np.clip(0.5 + distance / RAMP_MM[reading.margin], 0, 1)
    texture = ndimage.gaussian_filter(random.standard_normal(voxels.shape, dtype=np.float32), 1.0)
    level = TEXTURE_HU[reading.texture] + (150.0 if reading.calcification <= 4 else 0.0) + texture * (25.0 / texture.std())
    if reading.calcification == 5:
        level = np.where(distance > 0.45 * distance.max(), 300.0, level)
    number, length_mm = STRANDS.get(reading.spiculation, (0, 1.0))
    z, y, x = (line - place for line, place in zip(lines, body.lesion_mm, strict=True))
    taper = np.clip(1 + distance / length_mm, 0, 1)
    strands = np.zeros_like(voxels)
    for _ in range(number):
        angle, rise = random.uniform(0, 2 * np.pi), random.uniform(-0.4, 0.4)
        toward = (np.sin(rise), np.cos(rise) * np.sin(angle), np.cos(rise) * np.cos(angle))
        along = z[:, None, None] * toward[0] + y[:, None] * toward[1] + x * toward[2]
        across = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 - along**2
        strands = np.maximum(strands, np.where(along > 0, np.exp(-across / (2 * 0.6**2)) * taper, 0))
    voxels = np.maximum(voxels, voxels + strands * (-50.0 - voxels))
    return np.asarray(np.maximum(voxels, (1 - soft) * voxels + soft * level), dtype=np.float32)


def _scan(voxels: Float32, *, scanner: "Scanner", random: Generator) -> Float32:
    """Blur, sharpen, add ramp-filtered noise and the offset."""
    sigma = scanner.blur_mm / scanner.pixel_mm
    seen = ndimage.gaussian_filter(voxels, (0.3, sigma, sigma))
    if scanner.edge_gain:
        seen += np.float32(scanner.edge_gain) * (seen - ndimage.gaussian_filter(seen, (0, 1.2, 1.2)))
    rows = fft.fftfreq(scanner.matrix, scanner.pixel_mm)[:, None]
    frequency = np.hypot(rows, fft.rfftfreq(scanner.matrix, scanner.pixel_mm)).astype(np.float32)
    response = np.sqrt(frequency + 0.01) * np.exp(-((frequency / scanner.noise_cut_per_mm) ** 2))
    noise = random.standard_normal(voxels.shape, dtype=np.float32)
    noise = fft.irfft2(fft.rfft2(noise) * response, s=voxels.shape[1:])
    return np.asarray(seen + noise * (scanner.noise_sd_hu / noise.std()) + scanner.offset_hu, dtype=np.float32)
