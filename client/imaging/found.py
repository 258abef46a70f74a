"""What a DICOM file turns out to be: one of these types, or a coded reason why it is not used."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from client.inside import Acquisition, Float, Float32, Mask
from common.modality import PLANAR


class Reason(StrEnum):
    """Why a file or a series is set aside; the closed set that `SetAside.reason` is taken from (volume.py has the rest)."""

    LINK = "LINK"  # a symbolic link: never followed
    NOT_A_FILE = "NOT_A_FILE"  # a pipe, a device, or a file that cannot be opened
    NOT_DICOM = "NOT_DICOM"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    SOP_CLASS = "SOP_CLASS"  # no CT, MR, CR or DX image, Segmentation or RT Structure Set
    TRANSFER_SYNTAX = "TRANSFER_SYNTAX"
    TOO_LARGE = "TOO_LARGE"  # in the file, inflated, or in pixels
    TRUNCATED = "TRUNCATED"
    UNREADABLE = "UNREADABLE"
    LOSSY = "LOSSY"  # compressed with loss, now or before: no longer what the scanner measured
    BURNED_IN = "BURNED_IN"  # text in the pixels, says the file; for a copy, a radiograph that does not say that there is none
    SECONDARY = "SECONDARY"  # reformatted or captured: text may be burned in
    CHARACTER_SET = "CHARACTER_SET"  # PatientID or its issuer is not in the character set that the file names
    MODALITY = "MODALITY"  # another modality than the study's
    NO_RESCALE = "NO_RESCALE"  # a CT whose pixels cannot be turned into HU
    NOT_FINITE = "NOT_FINITE"
    NO_GEOMETRY = "NO_GEOMETRY"
    NO_IDENTITY = "NO_IDENTITY"  # PatientID or one of the UIDs is absent or malformed
    NO_TARGET = "NO_TARGET"  # an RT Structure Set in which nothing is called a tumour
    CONTOUR_OFF_SLICE = "CONTOUR_OFF_SLICE"  # a contour that lies in none of its series' slices
    SEGMENTATION_TYPE = "SEGMENTATION_TYPE"  # fractional, or not exactly one segment
    CRASHED = "CRASHED"  # the child died, or its answer makes no sense
    TIMED_OUT = "TIMED_OUT"
    COPY = "COPY"  # the same instance again, the same pixels
    DUPLICATE_INSTANCE = "DUPLICATE_INSTANCE"  # the same SOPInstanceUID, something else
    PATIENT_CHANGES = "PATIENT_CHANGES"
    MIXED_MATRIX = "MIXED_MATRIX"
    SEVERAL_SEGMENTATIONS = "SEVERAL_SEGMENTATIONS"
    SEGMENTATION_WITHOUT_SERIES = "SEGMENTATION_WITHOUT_SERIES"
    SEGMENTATION_ELSEWHERE = "SEGMENTATION_ELSEWHERE"  # another frame of reference than its series
    SEVERAL_PHASES = "SEVERAL_PHASES"  # phases or echoes at the same positions, and the region is on none or on several


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Raw identifiers; they stay inside the vault's process and are never printed."""

    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    frame_of_reference: str = field(repr=False)


def series_key(who: Identity, *, modality: str) -> tuple[str, ...]:
    """Return what tells series apart: study and series; each radiograph is a series of its own, told by its instance, too.

    What lies in one DICOM series of radiographs need have neither one size nor one view.
    """
    return (who.study, who.series, *([who.instance] if modality in PLANAR else []))


def series_of(who: Identity, *, modality: str) -> str:
    """Return the raw name of a series, of which its pseudonym is made."""
    return "/".join(series_key(who, modality=modality))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One CT or MR image, or one frame of one. `pixels` is None where only the header was asked for."""

    identity: Identity
    acquisition: Acquisition
    rows: int
    columns: int
    position_mm: Float  # (3,): centre of the first pixel, LPS
    orientation: Float  # (6,)
    spacing_mm: Float  # (2,): between rows, between columns
    pixels: Float32 | None = field(repr=False)  # (row, column), HU; nan where the scanner padded
    modality: str = "CT"  # or MR: `pixels` are then in the scanner's own unit
    phase: tuple[float, ...] = ()  # what may tell phases and echoes apart, in the order of images.PHASES; nan where absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """An enhanced multi-frame CT or MR: its frames as slices, in file order; `instance` of each ends in its number."""

    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One radiograph (CR, DX). `pixels` is None where only the header was asked for."""

    identity: Identity  # frame_of_reference is ""
    acquisition: Acquisition
    modality: str
    rows: int
    columns: int
    spacing_mm: Float  # (2,): between rows, between columns; on the detector where the file tells no more
    pixels: Float32 | None = field(repr=False)  # (row, column), dense is bright, no unit; nan where padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """One binary, one-segment SEG, without its empty frames. `planes` is None where only the header was asked for.

    Of a radiograph it lies nowhere: position 0, the image's own axes, frame_of_reference "", and spacing that does not count.
    """

    identity: Identity
    of_series: str = field(repr=False)
    orientation: Float  # (6,)
    spacing_mm: Float  # (2,)
    planes: Mask | None = field(repr=False)  # (plane, row, column)
    positions_mm: Float | None = field(repr=False)  # (plane, 3)
    references: tuple[str, ...] = field(default=(), repr=False)  # the images that it was drawn on; of a frame `UID#number`


@dataclass(frozen=True, slots=True, kw_only=True)
class Contours:
    """A lesion as closed contours (RT Structure Set). Points and ends are None where only the header was asked for."""

    identity: Identity
    of_series: str = field(repr=False)
    points_mm: Float | None = field(repr=False)  # (point, 3), LPS
    ends: Float | None = field(repr=False)  # (contour, 2): how many points up to its end, number of the region of interest
    references: tuple[str, ...] = field(default=(), repr=False)  # as of a Segmentation


Found = Slice | Frames | Projection | Segmentation | Contours


class Reader(Protocol):
    """Whoever reads files: a Guard, or one that knows what is not worth opening."""

    def read(self, path: Path, *, with_pixels: bool) -> Found | Reason:
        """Return what the file holds, or why it is not used."""
        ...


@runtime_checkable
class Expecting(Protocol):
    """A reader that works ahead when it is told what comes."""

    def expect(self, paths: Iterable[Path]) -> None:
        """Say which files will be asked for, in this order."""
        ...
