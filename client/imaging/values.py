"""Checked values of one data set's header: identity, text, numbers, geometry; runs in the guard's child."""

import math
from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from client.imaging import characters
from client.imaging.found import Reason


class Refused(Exception):
    """This file is set aside."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def size(ds: Dataset, *, frames_most: int, voxels_most: int) -> tuple[int, int]:
    """Return Rows and Columns; nothing is decoded before this product is known to be affordable."""
    rows, columns, frames = ds.get("Rows"), ds.get("Columns"), ds.get("NumberOfFrames", 1) or 1
    if (
        not isinstance(rows, int)
        or not isinstance(columns, int)
        or rows < 1
        or columns < 1
        or ds.get("SamplesPerPixel", 1) != 1
    ):
        raise Refused(Reason.NOT_AN_IMAGE)
    if int(frames) > frames_most or rows * columns * int(frames) > voxels_most:
        raise Refused(Reason.TOO_LARGE)
    return rows, columns


def group(shared: Dataset, frame: Dataset, name: str) -> Dataset:
    """Return a functional group of a frame, its own or the shared one."""
    found = frame.get(name) or shared.get(name)
    if not found:
        raise Refused(Reason.NO_GEOMETRY)
    return found[0]  # type: ignore[no-any-return]


def identity(ds: Dataset, *, framed: bool = True) -> dict[str, str]:
    """Return who and what this is; a projection image (not `framed`) needs no frame of reference."""
    names = {
        "study": "StudyInstanceUID",
        "series": "SeriesInstanceUID",
        "instance": "SOPInstanceUID",
        "frame_of_reference": "FrameOfReferenceUID",
    }
    try:
        patient, issuer = characters.text(ds, "PatientID"), characters.text(ds, "IssuerOfPatientID")
    except UnicodeDecodeError:
        raise Refused(Reason.CHARACTER_SET) from None
    if "\ufffd" in patient + issuer:
        raise Refused(Reason.CHARACTER_SET)
    found = {name: required(ds.get(tag)) for name, tag in names.items() if framed or name != "frame_of_reference"}
    return {"frame_of_reference": "", **found, "patient_id": required(patient), "issuer": required(issuer) if issuer else ""}


def required(value: object) -> str:
    """Return a text of 1 to 64 characters, which identifies something."""
    text = value.strip(" \0") if isinstance(value, str) else ""
    if not 0 < len(text) <= 64:
        raise Refused(Reason.NO_IDENTITY)
    return text


def references(named: Iterable[Dataset], *, most: int) -> list[str]:
    """Return the instances that items of a reference macro name, each once, `#` and a number from 0 behind that of a frame.

    Nothing where there are more than `most`.
    """
    found = set()
    for one in named:
        instance, frames = one.get("ReferencedSOPInstanceUID"), one.get("ReferencedFrameNumber")
        if isinstance(instance, str) and len(instance) <= 64:
            numbers = frames if isinstance(frames, MultiValue) else [] if frames is None else [frames]
            found.update([f"{instance}#{int(number) - 1}" for number in numbers] or [str(instance)])
    return sorted(found) if len(found) <= most else []


def label(value: object) -> str:
    """Return a text as it stands, at most 64 characters; "" where it is absent."""
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join(str(part) for part in parts if part is not None)[:64]


def number(value: object) -> float | None:
    """Return a finite number, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def floats(values: object, count: int) -> list[float]:
    """Return `count` numbers within a kilometre of 0."""
    numbers = [number(value) for value in values] if isinstance(values, Iterable) and not isinstance(values, str) else []
    if len(numbers) != count or any(number is None or abs(number) > 1e6 for number in numbers):
        raise Refused(Reason.NO_GEOMETRY)
    return [number for number in numbers if number is not None]


def orientation(ds: Dataset) -> list[float]:
    """Return the direction cosines of a row and of a column: unit vectors at right angles."""
    cosines = floats(ds.get("ImageOrientationPatient"), 6)
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    if abs(row @ row - 1) > 1e-3 or abs(column @ column - 1) > 1e-3 or abs(row @ column) > 1e-3:
        raise Refused(Reason.NO_GEOMETRY)
    return cosines


def spacing(ds: Dataset, *, keyword: str = "PixelSpacing") -> list[float]:
    """Return mm between rows and between columns."""
    spacing_mm = floats(ds.get(keyword), 2)
    if min(spacing_mm) < 1e-3 or max(spacing_mm) > 100:
        raise Refused(Reason.NO_GEOMETRY)
    return spacing_mm
