"""What the guard's child does: the bytes of one DICOM file in, a checked header and plain arrays out, or a coded reason.

Run as `python -m client.imaging.decode LIMITS SCRATCH EXCHANGE`, by client/imaging/guard.py only. It holds no secret, opens no
file of the hospital, and limits itself before it reads: address space, processor time per file, open files, no core dump, no
file written, no process or thread started (root is exempt from the last).
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
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
)

from client.imaging import allowed, images, lettering, pixels, structure, values
from client.imaging.exchange import Arrays, Window
from client.imaging.found import Reason
from client.imaging.guard import ANSWER, HEADER, IDENTIFIERS, PIXELS, REQUEST, REWRITE
from client.imaging.limits import Limits
from client.imaging.values import Refused

_CPU_TOTAL_S = 3600
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_PLAIN_META = b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 28) + struct.pack("<HH2sH", 2, 0x10, b"UI", 20)

Answer = tuple[dict[str, Any], Arrays]


def _nowhere() -> Dataset:
    """Return the functional groups of what has no frame of reference."""
    made, groups = [Dataset() for _ in range(3)], Dataset()
    made[0].ImagePositionPatient, made[1].ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    made[2].PixelSpacing = [1, 1]
    groups.PlanePositionSequence, groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = ([one] for one in made)
    return groups


_NOWHERE = _nowhere()


def main() -> None:
    """Answer one file after the other until the pipe closes or the processor time of this process is spent."""
    limits, scratch, window = Limits(**json.loads(sys.argv[1])), int(sys.argv[2]), Window(int(sys.argv[3]))
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),  # nothing outlives it
        (resource.RLIMIT_NOFILE, limits.files_open),
    ):
        resource.setrlimit(what, (most, most))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    warnings.simplefilter("ignore")
    logging.disable()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    source, sink = os.fdopen(0, "rb", closefd=False), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a codec prints is thrown away
    sink.write(b"+")
    used = 0.0
    while used + limits.cpu_s < _CPU_TOTAL_S and len(head := source.read(REQUEST.size)) == REQUEST.size:
        kind, beside_bytes, size = REQUEST.unpack(head)
        beside, data = source.read(beside_bytes), window.file(size)
        used = math.fsum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + limits.cpu_s, _CPU_TOTAL_S))
        answer, arrays = answered(data, kind=kind, beside=beside, limits=limits, scratch=scratch)
        try:
            answer["arrays"] = window.put(arrays)
        except (MemoryError, OSError):  # the second where a part of it cannot be mapped
            answer = {"reason": Reason.TOO_LARGE, "arrays": {}}
        if used + 2 * limits.cpu_s >= _CPU_TOTAL_S:
            answer["last"], used = True, math.inf
        _write(sink, answer)


def answered(data: bytes, *, kind: int, beside: bytes, limits: Limits, scratch: int | None) -> Answer:
    """Return what is asked of one file: its header, its pixels, its identifiers, or a pseudonymised copy."""
    if kind in {HEADER, PIXELS}:
        return examine(data, with_pixels=kind == PIXELS, limits=limits, scratch=scratch)
    try:
        ds = _parsed(data, with_pixels=True, limits=limits)
        if ds.SOPClassUID == SegmentationStorage:
            _seg(ds, with_pixels=False, limits=limits)
        elif ds.SOPClassUID in images.KINDS:
            images.examine(ds, with_pixels=False, limits=limits, scratch=None)  # text burned in, lossy, colour
            if ds.SOPClassUID in images.PROJECTIONS and ds.get("BurnedInAnnotation") != "NO":
                raise Refused(Reason.BURNED_IN)
            if kind == REWRITE and _lettered(ds, scratch=scratch):
                raise Refused(Reason.BURNED_IN)
        else:  # a structure set is names and free text around its contours
            raise Refused(Reason.SOP_CLASS)
        if kind == IDENTIFIERS:
            return {"identifiers": allowed.identifiers(ds)}, {}
        given = json.loads(beside)
        file = np.frombuffer(allowed.rewritten(ds, given=given), np.uint8)
        return {"instance": given["uids"][str(ds.SOPInstanceUID)]}, {"file": file}
    except Refused as refused:
        return {"reason": refused.reason}, {}
    except MemoryError:
        return {"reason": Reason.TOO_LARGE}, {}
    except Exception:  # noqa: BLE001  (as below)
        return {"reason": Reason.UNREADABLE}, {}


def _lettered(ds: Dataset, *, scratch: int | None) -> bool:
    """Say whether letters stand in the first, middle or last frame of an image."""
    stored = pixels.stored(ds, scratch=scratch)
    frames = stored.reshape(-1, *stored.shape[-2:])
    return any(lettering.stands(frames[at]) for at in {0, len(frames) // 2, len(frames) - 1})


def examine(data: bytes, *, with_pixels: bool, limits: Limits, scratch: int | None) -> Answer:
    """Return the header and the arrays of one file, or `{"reason": code}`. No text of the file is in any error."""
    try:
        ds = _parsed(data, with_pixels=with_pixels, limits=limits)
        if ds.get("SOPClassUID") in images.KINDS:
            return images.examine(ds, with_pixels=with_pixels, limits=limits, scratch=scratch)
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
    if syntax not in pixels.NATIVE | pixels.LOSSLESS | pixels.LOSSY:
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
    if ds.get("SOPClassUID") not in {*images.KINDS, RTStructureSetStorage, SegmentationStorage}:
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


def _seg(ds: Dataset, *, with_pixels: bool, limits: Limits) -> Answer:
    rows, columns = values.size(ds, frames_most=limits.frames, voxels_most=limits.region_voxels)
    frames = int(ds.get("NumberOfFrames") or 0)
    if ds.get("SegmentationType") != "BINARY" or ds.get("BitsAllocated") != 1 or len(ds.SegmentSequence) != 1:
        raise Refused(Reason.SEGMENTATION_TYPE)
    if ds.file_meta.TransferSyntaxUID not in pixels.NATIVE:
        raise Refused(Reason.TRANSFER_SYNTAX)
    per_frame = ds.PerFrameFunctionalGroupsSequence
    series = list(ds.get("ReferencedSeriesSequence") or [])
    if len(per_frame) != frames or len(series) != 1:
        raise Refused(Reason.NO_GEOMETRY if series else Reason.NO_IDENTITY)
    shared = ds.SharedFunctionalGroupsSequence[0]
    sources = [
        source
        for frame in per_frame
        for derived in frame.get("DerivationImageSequence") or shared.get("DerivationImageSequence") or []
        for source in derived.get("SourceImageSequence") or []
    ]
    references = values.references(sources or series[0].get("ReferencedInstanceSequence") or [], most=limits.frames)
    if ds.get("FrameOfReferenceUID") is None and frames == len(references) == 1:  # of a radiograph, which lies nowhere
        shared, per_frame = _NOWHERE, [Dataset()]
    laid_out = [
        (
            values.orientation(values.group(shared, frame, "PlaneOrientationSequence")),
            values.spacing(values.group(shared, frame, "PixelMeasuresSequence")),
        )
        for frame in per_frame
    ]
    if not laid_out or any(layout != laid_out[0] for layout in laid_out):
        raise Refused(Reason.NO_GEOMETRY)
    head = {
        "kind": "seg",
        "identity": values.identity(ds, framed=shared is not _NOWHERE),
        "of_series": values.required(series[0].get("SeriesInstanceUID")),
        "references": references,
        "orientation": laid_out[0][0],
        "spacing_mm": laid_out[0][1],
    }
    positions = [
        values.floats(values.group(shared, frame, "PlanePositionSequence").get("ImagePositionPatient"), 3)
        for frame in per_frame
    ]
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
    found = structure.target(ds, points_most=limits.contour_points, images_most=limits.frames)
    if isinstance(found, Reason):
        raise Refused(found)
    ds.FrameOfReferenceUID = found.frame_of_reference  # a structure set has it a region of interest, not of its own
    head = {
        "kind": "contours",
        "identity": values.identity(ds),
        "of_series": values.required(found.of_series),
        "references": found.references,
    }
    return head, {"points_mm": found.points_mm, "ends": found.ends} if with_pixels else {}


def _write(sink: BinaryIO, answer: dict[str, Any]) -> None:
    text = json.dumps(answer, allow_nan=False).encode()
    left = memoryview(ANSWER.pack(len(text)) + text)
    while left:
        left = left[sink.write(left) :]


if __name__ == "__main__":
    main()
