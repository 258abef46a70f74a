"""What the guard's child does: the bytes of one DICOM file in, a checked header and plain arrays out, or a coded reason.

Run as `python -m client.imaging.decode LIMITS`, by client/imaging/guard.py only. It holds no secret, opens no file of the
hospital, and limits itself before it reads: address space, processor time per file, open files, no core dump, no file written.
"""

import io
import json
import logging
import math
import os
import resource
import signal
import struct
import sys
import warnings
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
)

from client.imaging import structure
from client.imaging.guard import ANSWER, DTYPES, REQUEST, Limits, Reason

NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
COMPRESSED = {RLELossless, JPEGLSLossless, JPEG2000Lossless}  # lossless only: a lossy HU is not an HU
AIR_HU = -1024.0
_CPU_TOTAL_S = 3600
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_PLAIN_META = b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 28) + struct.pack("<HH2sH", 2, 0x10, b"UI", 20)

Answer = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class Refused(Exception):
    """This file is set aside."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def main() -> None:
    """Answer one file after the other until the pipe closes or the processor time of this process is spent."""
    limits = Limits(**json.loads(sys.argv[1]))
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, limits.files_open),
    ):
        resource.setrlimit(what, (most, most))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    warnings.simplefilter("ignore")
    logging.disable()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    source, sink = os.fdopen(0, "rb", buffering=1 << 20, closefd=False), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a codec prints is thrown away
    sink.write(b"+")
    used = 0.0
    while used + limits.cpu_s < _CPU_TOTAL_S and len(head := source.read(REQUEST.size)) == REQUEST.size:
        with_pixels, size = REQUEST.unpack(head)
        data = source.read(size)
        used = math.fsum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + limits.cpu_s, _CPU_TOTAL_S))
        answer, arrays = examine(data, with_pixels=bool(with_pixels), limits=limits)
        if used + 2 * limits.cpu_s >= _CPU_TOTAL_S:
            answer["last"], used = True, math.inf
        _write(sink, answer, arrays)


def examine(data: bytes, *, with_pixels: bool, limits: Limits) -> Answer:
    """Return the header and the arrays of one file, or `{"reason": code}`. No text of the file is in any error."""
    try:
        ds = _parsed(data, with_pixels=with_pixels, limits=limits)
        if ds.get("SOPClassUID") == CTImageStorage:
            return _ct(ds, with_pixels=with_pixels, limits=limits)
        if ds.get("SOPClassUID") == RTStructureSetStorage:
            return _contours(ds, with_pixels=with_pixels, limits=limits)
        return _seg(ds, with_pixels=with_pixels, limits=limits)
    except Refused as refused:
        return {"reason": refused.reason}, {}
    except MemoryError:
        return {"reason": Reason.TOO_LARGE}, {}
    except Exception:  # noqa: BLE001  (a parser of hostile bytes may raise anything; imaging.md section 2)
        return {"reason": Reason.UNREADABLE}, {}


def _parsed(data: bytes, *, with_pixels: bool, limits: Limits) -> Dataset:
    syntax, body = _meta(data)
    if syntax not in NATIVE | COMPRESSED:
        raise Refused(Reason.TRANSFER_SYNTAX)
    if syntax == DeflatedExplicitVRLittleEndian:  # pydicom inflates without a bound
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = inflater.decompress(data[body:], limits.inflated_bytes)
        if inflater.unconsumed_tail:
            raise Refused(Reason.TOO_LARGE)
        if not inflater.eof:
            raise Refused(Reason.TRUNCATED)
        data = _PLAIN_META + ExplicitVRLittleEndian.encode() + b"\0" + plain
    ds = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not with_pixels)
    if ds.get("SOPClassUID") not in {CTImageStorage, RTStructureSetStorage, SegmentationStorage}:
        raise Refused(Reason.SOP_CLASS if "SOPClassUID" in ds else Reason.NOT_AN_IMAGE)
    return ds


def _meta(data: bytes) -> tuple[str, int]:
    """Return the transfer syntax and where the data set begins (PS3.10, 7.1); group 2 is always explicit little endian."""
    if data[128:132] != b"DICM":
        raise Refused(Reason.NOT_DICOM)
    at, syntax = 132, ""
    while data[at : at + 2] == b"\x02\x00":
        if len(data) < at + 12:
            raise Refused(Reason.TRUNCATED)
        element, kind = struct.unpack_from("<H2s", data, at + 2)
        form, skip = ("<I", 12) if kind in _LONG else ("<H", 8)
        (length,) = struct.unpack_from(form, data, at + skip - struct.calcsize(form))
        value = data[at + skip : at + skip + length]
        if len(value) < length:
            raise Refused(Reason.TRUNCATED)
        if element == 0x10:
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
        at += skip + length
    return syntax, at


def _ct(ds: Dataset, *, with_pixels: bool, limits: Limits) -> Answer:
    rows, columns = _size(ds, frames_most=1, voxels_most=limits.pixels)
    if ds.get("BitsAllocated") not in {8, 16, 32} or ds.get("PhotometricInterpretation") != "MONOCHROME2":
        raise Refused(Reason.NOT_AN_IMAGE)
    slope, intercept = _number(ds.get("RescaleSlope")), _number(ds.get("RescaleIntercept"))
    if slope is None or intercept is None or slope == 0 or (ds.get("RescaleType") or "HU") != "HU":
        raise Refused(Reason.NO_RESCALE)
    head = {
        "kind": "ct",
        "identity": _identity(ds),
        "shape": [rows, columns],
        "position_mm": _floats(ds.get("ImagePositionPatient"), 3),
        "orientation": _orientation(ds),
        "spacing_mm": _spacing(ds),
        "acquisition": {
            "manufacturer": _label(ds.get("Manufacturer")),
            "kernel": _label(ds.get("ConvolutionKernel")),
            "kvp": _number(ds.get("KVP")),
            "slice_thickness_mm": _number(ds.get("SliceThickness")),
        },
    }
    if not with_pixels:
        return head, {}
    if "PixelData" not in ds:
        raise Refused(Reason.NOT_AN_IMAGE)
    if ds.file_meta.TransferSyntaxUID in NATIVE and len(ds.PixelData) < rows * columns * ds.BitsAllocated // 8:
        raise Refused(Reason.TRUNCATED)
    stored: NDArray[Any] = ds.pixel_array
    if stored.shape != (rows, columns):
        raise Refused(Reason.UNREADABLE)
    with np.errstate(over="ignore", invalid="ignore"):
        hu = (stored * np.float64(slope) + intercept).astype(np.float32)
    if not np.isfinite(hu).all():
        raise Refused(Reason.NOT_FINITE)
    padding = _padding(ds)
    if padding is not None:
        low, high = padding
        if low != high or low * slope + intercept != AIR_HU:  # padding that reads as air is air
            hu[(stored >= low) & (stored <= high)] = np.nan
    return head, {"pixels": hu}


def _padding(ds: Dataset) -> tuple[int, int] | None:
    """Return the stored values that mean "no measurement here" (PS3.3 C.7.5.1.1.2), read with the sign of the pixels."""
    if ds.get("PixelPaddingValue") is None:
        return None
    bits, signed = int(ds.BitsAllocated), ds.get("PixelRepresentation") == 1
    ends = []
    for value in (ds.PixelPaddingValue, ds.get("PixelPaddingRangeLimit")):
        if value is not None:
            wrapped = int(value) % (1 << bits)
            ends.append(wrapped - (1 << bits) if signed and wrapped >> (bits - 1) else wrapped)
    return min(ends), max(ends)


def _seg(ds: Dataset, *, with_pixels: bool, limits: Limits) -> Answer:
    rows, columns = _size(ds, frames_most=limits.frames, voxels_most=limits.region_voxels)
    frames = int(ds.get("NumberOfFrames") or 0)
    if ds.get("SegmentationType") != "BINARY" or ds.get("BitsAllocated") != 1 or len(ds.SegmentSequence) != 1:
        raise Refused(Reason.SEGMENTATION_TYPE)
    if ds.file_meta.TransferSyntaxUID not in NATIVE:
        raise Refused(Reason.TRANSFER_SYNTAX)
    per_frame = ds.PerFrameFunctionalGroupsSequence
    references = list(ds.get("ReferencedSeriesSequence") or [])
    if len(per_frame) != frames or len(references) != 1:
        raise Refused(Reason.NO_GEOMETRY if references else Reason.NO_IDENTITY)
    shared = ds.SharedFunctionalGroupsSequence[0]
    laid_out = [
        (
            _orientation(_group(shared, frame, "PlaneOrientationSequence")),
            _spacing(_group(shared, frame, "PixelMeasuresSequence")),
        )
        for frame in per_frame
    ]
    if not laid_out or any(layout != laid_out[0] for layout in laid_out):
        raise Refused(Reason.NO_GEOMETRY)
    of_series = references[0].get("SeriesInstanceUID")
    head = {
        "kind": "seg",
        "identity": _identity(ds),
        "of_series": _required(of_series),
        "orientation": laid_out[0][0],
        "spacing_mm": laid_out[0][1],
    }
    positions = [_floats(_group(shared, frame, "PlanePositionSequence").get("ImagePositionPatient"), 3) for frame in per_frame]
    if not with_pixels:
        return head, {}
    bits = np.frombuffer(ds.get("PixelData", b""), np.uint8)
    if bits.size * 8 < frames * rows * columns:
        raise Refused(Reason.TRUNCATED)
    planes = np.unpackbits(bits, count=frames * rows * columns, bitorder="little").reshape(frames, rows, columns)
    kept = planes.any(axis=(1, 2))
    head["shape"] = [int(kept.sum()), rows, columns]
    return head, {
        "bits": np.packbits(planes[kept], bitorder="little"),
        "positions_mm": np.asarray(positions, np.float64)[kept],
    }


def _contours(ds: Dataset, *, with_pixels: bool, limits: Limits) -> Answer:
    found = structure.target(ds, points_most=limits.contour_points)
    if isinstance(found, Reason):
        raise Refused(found)
    ds.FrameOfReferenceUID = found.frame_of_reference  # a structure set has it a region of interest, not of its own
    head = {"kind": "contours", "identity": _identity(ds), "of_series": _required(found.of_series)}
    return head, {"points_mm": found.points_mm, "ends": found.ends} if with_pixels else {}


def _group(shared: Dataset, frame: Dataset, name: str) -> Dataset:
    found = frame.get(name) or shared.get(name)
    if not found:
        raise Refused(Reason.NO_GEOMETRY)
    return found[0]  # type: ignore[no-any-return]


def _size(ds: Dataset, *, frames_most: int, voxels_most: int) -> tuple[int, int]:
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


def _identity(ds: Dataset) -> dict[str, str]:
    names = {
        "patient_id": "PatientID",
        "study": "StudyInstanceUID",
        "series": "SeriesInstanceUID",
        "instance": "SOPInstanceUID",
        "frame_of_reference": "FrameOfReferenceUID",
    }
    issuer = ds.get("IssuerOfPatientID") or ""
    return {name: _required(ds.get(tag)) for name, tag in names.items()} | {"issuer": _required(issuer) if issuer else ""}


def _required(value: object) -> str:
    text = value.strip(" \0") if isinstance(value, str) else ""
    if not 0 < len(text) <= 64:
        raise Refused(Reason.NO_IDENTITY)
    return text


def _label(value: object) -> str:
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join(str(part) for part in parts if part is not None)[:64]


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _floats(values: object, count: int) -> list[float]:
    numbers = [_number(value) for value in values] if isinstance(values, Iterable) and not isinstance(values, str) else []
    if len(numbers) != count or any(number is None or abs(number) > 1e6 for number in numbers):
        raise Refused(Reason.NO_GEOMETRY)
    return [number for number in numbers if number is not None]


def _orientation(ds: Dataset) -> list[float]:
    cosines = _floats(ds.get("ImageOrientationPatient"), 6)
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    if abs(row @ row - 1) > 1e-3 or abs(column @ column - 1) > 1e-3 or abs(row @ column) > 1e-3:
        raise Refused(Reason.NO_GEOMETRY)
    return cosines


def _spacing(ds: Dataset) -> list[float]:
    spacing_mm = _floats(ds.get("PixelSpacing"), 2)
    if min(spacing_mm) < 1e-3 or max(spacing_mm) > 100:
        raise Refused(Reason.NO_GEOMETRY)
    return spacing_mm


def _write(sink: BinaryIO, answer: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    kinds = {dtype: name for name, dtype in DTYPES.items()}
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    answer["arrays"] = {name: [kinds[array.dtype], list(array.shape)] for name, array in plain.items()}
    text = json.dumps(answer, allow_nan=False).encode()
    for part in (ANSWER.pack(len(text)), text, *(array.tobytes() for array in plain.values())):
        view = memoryview(part)
        while view:
            view = view[sink.write(view) :]


if __name__ == "__main__":
    main()
