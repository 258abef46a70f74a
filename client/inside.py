"""What must not leave the hospital: the types of the arrows inside the vault. All frozen, all arrays read-only."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


def freeze(*arrays: NDArray[Any]) -> None:
    """Make arrays read-only."""
    for array in arrays:
        array.setflags(write=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A file or series that is not used: a coded reason, never a value out of it."""

    name: str  # path relative to the scan folder; shown to the hospital only, never sent
    reason: str  # one of the codes in client/imaging/found.py, volume.py, lesion.py and segment.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """How a series was made; covariates of the statistics."""

    manufacturer: str
    kernel: str
    kvp: float  # kV; nan where absent
    slice_thickness_mm: float  # nan where absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One series as decoded, in file order: positions and directions in patient LPS millimetres.

    Intensities are HU of a CT and as the scanner scaled them of another modality (common/modality.py). A radiograph is a series
    of its own of one slice, whose position is 0 and whose directions are the image's own.
    """

    patient: str  # pseudonym
    series: str  # pseudonym of the series
    frame_of_reference: tuple[str, ...]  # pseudonym per slice
    modality: str
    pixels: Float32  # (slice, row, column); nan where the scanner padded
    positions_mm: Float  # (slice, 3): centre of the first pixel, LPS
    orientations: Float  # (slice, 6): direction of increasing column index, then of increasing row index
    spacings_mm: Float  # (slice, 2): between rows, between columns
    acquisition: Acquisition
    region_planes: Mask | None = None  # (plane, row, column): the lesion, from DICOM SEG
    region_positions_mm: Float | None = None  # (plane, 3)
    region_orientation: Float | None = None  # (6,)
    region_spacing_mm: Float | None = None  # (2,)

    def __post_init__(self) -> None:
        freeze(self.pixels, self.positions_mm, self.orientations, self.spacings_mm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A regular volume: voxels (z, y, x), and the affine that maps (z, y, x, 1) indices to LPS millimetres.

    Voxels are in HU of a CT, of another modality as the scanner scaled them until they are normalised. A radiograph has one
    slice, the image's own axes instead of the patient's, and a region that is all that was measured.
    """

    patient: str
    series: str
    modality: str
    voxels: Float32  # (z, y, x)
    affine: Float  # (4, 4): (z, y, x, 1) index -> LPS mm
    spacing_mm: tuple[float, float, float]  # z, y, x
    acquisition: Acquisition
    region: Mask | None = None  # (z, y, x), same grid
    padding: Mask | None = None  # (z, y, x): where the scanner measured nothing; None where it measured everywhere

    def __post_init__(self) -> None:
        freeze(self.voxels, self.affine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The parameters of one lesion image."""

    patient: str
    series: str
    values: dict[str, float]  # by parameter name, units in the names


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One image of a patient's bag, ready for the CNN."""

    patient: str
    pixels: Float32  # (channel, row, column) or (channel, z, row, column)

    def __post_init__(self) -> None:
        freeze(self.pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The hospital's patients of one study: one row per patient, a bag of views per patient.

    `table` is nan where a value is missing or outside its declared bounds. `bags[i]` holds the rows of `views` of patient i.
    """

    patients: tuple[str, ...]  # pseudonyms, sorted
    columns: tuple[str, ...]
    table: Float  # (patient, column)
    views: Float32  # (view, channel, row, column) or (view, channel, z, row, column)
    bags: tuple[tuple[int, ...], ...]  # patient -> indices into views
    set_aside: tuple[SetAside, ...] = field(default=())

    def __post_init__(self) -> None:
        freeze(self.table, self.views)
