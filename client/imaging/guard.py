"""Hostile DICOM bytes are parsed and decoded in a limited child process; back comes a checked image or a coded reason.

The child (client/imaging/decode.py) lives on from file to file. It gets bytes, never a path, and answers JSON and raw array
bytes; nothing is pickled, its standard error is thrown away, and a crash, a hang or a lie costs that one file.
"""

import contextlib
import fcntl
import json
import math
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from client.inside import Acquisition, Float, Float32, Mask, freeze
from common.errors import InternalError

REQUEST = struct.Struct(">BQQ")  # what is asked, bytes of JSON beside the file, bytes of the file
HEADER, PIXELS, IDENTIFIERS, REWRITE = range(4)
ANSWER = struct.Struct(">I")  # bytes of JSON that follow, then the arrays that it announces
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8"), "uint8": np.dtype("u1")}
_ANSWER_MOST = 1 << 20
_PIPE_BYTES = 1 << 20
_STARTUP_S = 60.0
SENSELESS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # what the answer of a lying child may raise
SCRATCH_SPARE_BYTES = 1 << 16  # our own header of what the second decoder reads


class Reason(StrEnum):
    """Why a file or a series is set aside; the closed set that `SetAside.reason` is taken from (volume.py has the rest)."""

    LINK = "LINK"  # a symbolic link: never followed
    NOT_A_FILE = "NOT_A_FILE"  # a pipe, a device, or a file that cannot be opened
    NOT_DICOM = "NOT_DICOM"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    SOP_CLASS = "SOP_CLASS"  # no CT Image, Segmentation or RT Structure Set Storage
    TRANSFER_SYNTAX = "TRANSFER_SYNTAX"
    TOO_LARGE = "TOO_LARGE"  # in the file, inflated, or in pixels
    TRUNCATED = "TRUNCATED"
    UNREADABLE = "UNREADABLE"
    LOSSY = "LOSSY"  # compressed with loss, now or before: no longer what the scanner measured
    BURNED_IN = "BURNED_IN"  # text in the pixels, says the file
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one file may cost."""

    file_bytes: int = 256 << 20
    inflated_bytes: int = 256 << 20
    pixels: int = 4096 * 4096  # of a CT slice
    region_voxels: int = 512 * 512 * 1024  # Rows x Columns x Frames of a segmentation
    frames: int = 4096
    frame_voxels: int = 1 << 27  # Rows x Columns x Frames of an enhanced image
    contour_points: int = 1 << 20  # of an RT Structure Set's lesion
    memory_bytes: int = 2 << 30
    cpu_s: int = 20
    wall_s: float = 60.0
    files_open: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Raw identifiers; they stay inside the vault's process and are never printed."""

    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    frame_of_reference: str = field(repr=False)


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
    spacing_mm: Float  # (2,): between rows, between columns; on the detector where not `calibrated`
    calibrated: bool
    pixels: Float32 | None = field(repr=False)  # (row, column), dense is bright, no unit; nan where padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """One binary, one-segment SEG, without its empty frames. `planes` is None where only the header was asked for."""

    identity: Identity
    of_series: str = field(repr=False)
    orientation: Float  # (6,)
    spacing_mm: Float  # (2,)
    planes: Mask | None = field(repr=False)  # (plane, row, column)
    positions_mm: Float | None = field(repr=False)  # (plane, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contours:
    """A lesion as closed contours (RT Structure Set). Points and ends are None where only the header was asked for."""

    identity: Identity
    of_series: str = field(repr=False)
    points_mm: Float | None = field(repr=False)  # (point, 3), LPS
    ends: Float | None = field(repr=False)  # (contour, 2): how many points up to its end, number of the region of interest


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


class _Died(Exception):
    """The child went away in the middle of an answer."""


class Guard:
    """One child process and its limits. A context manager; not for two threads at once."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._scratch: int | None = None  # memory in which the child's second decoder finds a file
        self._until = 0.0  # monotonic clock; when the file in hand is given up

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Return the child's process id, None where none runs."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def close(self) -> None:
        """End the child. Twice is once."""
        child, self._child = self._child, None
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            os.close(scratch)
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def read(self, path: Path, *, with_pixels: bool) -> Found | Reason:
        """Return what the file holds, or why it is not used. Never raises for anything that a file may hold.

        A link, a pipe or a file above `Limits.file_bytes` is refused before a byte is parsed. Raises InternalError when
        the child cannot even be started.
        """
        answer = self.ask(path, kind=PIXELS if with_pixels else HEADER)
        if isinstance(answer, Reason):
            return answer
        try:
            return _parse(answer[0], arrays=answer[1], with_pixels=with_pixels)
        except SENSELESS:
            self.close()
            return Reason.CRASHED

    def ask(self, path: Path, *, kind: int, beside: bytes = b"") -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | Reason:
        """Return the child's answer as it stands, to be checked by the caller, or why there is none."""
        data = _bytes_of(path, most=self._limits.file_bytes)
        if isinstance(data, Reason):
            return data
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._start()
        try:
            if self._scratch is not None:
                os.ftruncate(self._scratch, len(data) + SCRATCH_SPARE_BYTES)
            self._send(REQUEST.pack(kind, len(beside), len(data)), beside, data)
            head, arrays = self._receive()
            if head.pop("last", False):  # the child has spent its processor time; the next file gets a new one
                self.close()
            return Reason(head["reason"]) if "reason" in head else (head, arrays)
        except TimeoutError:
            self.close()
            return Reason.TIMED_OUT
        except _Died:
            return Reason.TIMED_OUT if self._ended_by() == -signal.SIGXCPU else Reason.CRASHED
        except SENSELESS:
            self.close()
            return Reason.CRASHED

    def _ended_by(self) -> int | None:
        """Return how the child that closed its pipe ended, and clear it away."""
        child = self._child
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
        self.close()
        return child.returncode if child else None

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        self._scratch = os.memfd_create("motet-scratch")  # the child may write no file, and cannot make this one longer
        self._child = subprocess.Popen(
            [sys.executable, "-m", "client.imaging.decode", json.dumps(asdict(self._limits)), str(self._scratch)],
            pass_fds=[self._scratch],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback may quote the file
            env=environment | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
            bufsize=0,
            close_fds=True,
        )
        for pipe in (self._child.stdin, self._child.stdout):
            os.set_blocking(_number(pipe), False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(_number(pipe), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            ready = bytes(self._take(1, until=time.monotonic() + _STARTUP_S)) == b"+"
        except (_Died, TimeoutError):
            ready = False
        if not ready:
            self.close()
            raise InternalError("The DICOM reader does not start.", action="Is pydicom installed (motet[hospital])?")

    def _send(self, *parts: bytes) -> None:
        self._until = time.monotonic() + self._limits.wall_s
        pipe = _number(self._child and self._child.stdin)
        for part in parts:
            view = memoryview(part)
            while view:
                try:
                    view = view[os.write(pipe, view) :]
                except BlockingIOError:
                    _await(pipe, select.POLLOUT, until=self._until)
                except BrokenPipeError:
                    raise _Died from None

    def _receive(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        (size,) = ANSWER.unpack(self._take(ANSWER.size, until=self._until))
        if size > _ANSWER_MOST:
            raise ValueError("answer too long")
        head = json.loads(bytes(self._take(size, until=self._until)))
        arrays: dict[str, NDArray[Any]] = {}
        for name, (kind, shape) in head.pop("arrays").items():
            count = math.prod(int(n) for n in shape)
            if min(shape, default=0) < 0 or count * DTYPES[kind].itemsize > self._limits.memory_bytes:
                raise ValueError("array too large")
            raw = self._take(count * DTYPES[kind].itemsize, until=self._until)
            arrays[name] = np.frombuffer(raw, DTYPES[kind]).reshape(shape)
            freeze(arrays[name])
        return head, arrays

    def _take(self, size: int, *, until: float) -> memoryview:
        pipe = _number(self._child and self._child.stdout)
        taken, view = np.empty(size, np.uint8).data, 0
        while view < size:
            _await(pipe, select.POLLIN, until=until)
            got = os.readv(pipe, [taken[view:]])
            if not got:
                raise _Died
            view += got
        return taken


def _bytes_of(path: Path, *, most: int) -> bytes | Reason:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return Reason.LINK if path.is_symlink() else Reason.NOT_A_FILE
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Reason.NOT_A_FILE
        if status.st_size > most:
            return Reason.TOO_LARGE
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            data = file.read(status.st_size + 1)  # a buffer of the limit's size would cost more than the file
    except OSError:
        return Reason.NOT_A_FILE
    finally:
        os.close(descriptor)
    return Reason.TOO_LARGE if len(data) > most else data


def _await(pipe: int, event: int, *, until: float) -> None:
    """Wait until the pipe can be used or has closed; raises TimeoutError."""
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
        raise TimeoutError


def _number(pipe: Any) -> int:  # noqa: ANN401  (a pipe of subprocess, or None)
    if pipe is None:
        raise _Died
    return int(pipe.fileno())


def _parse(head: dict[str, Any], *, arrays: dict[str, NDArray[Any]], with_pixels: bool) -> Found:
    """Check the child's answer as if a stranger had written it."""
    identity = Identity(**{name: _text(value) for name, value in head["identity"].items()})
    if head["kind"] == "contours":
        return _contours(identity, of_series=_text(head["of_series"]), arrays=arrays if with_pixels else None)
    if head["kind"] == "projection":
        return _projection(identity, head=head, pixels=arrays["pixels"] if with_pixels else None)
    if head["kind"] == "frames":
        return _frames(identity, head=head, placed=arrays["placed"], pixels=arrays["pixels"] if with_pixels else None)
    orientation, spacing_mm = _numbers(head["orientation"], 6), _numbers(head["spacing_mm"], 2)
    if head["kind"] == "seg":
        planes: Mask | None = None
        positions_mm: Float | None = None
        if with_pixels:
            count, rows, columns = (int(n) for n in head["shape"])
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
        )
    rows, columns = (int(n) for n in head["shape"])
    pixels = arrays["pixels"] if with_pixels else None
    if pixels is not None and (pixels.shape != (rows, columns) or np.isinf(pixels).any()):
        raise ValueError("pixels")
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
    )


def _acquisition(made: dict[str, Any]) -> Acquisition:
    return Acquisition(
        manufacturer=_text(made["manufacturer"]),
        kernel=_text(made["kernel"]),
        kvp=_or_nan(made["kvp"]),
        slice_thickness_mm=_or_nan(made["slice_thickness_mm"]),
    )


def _projection(identity: Identity, *, head: dict[str, Any], pixels: Float32 | None) -> Projection:
    rows, columns = (int(n) for n in head["shape"])
    if pixels is not None and (pixels.shape != (rows, columns) or np.isinf(pixels).any()):
        raise ValueError("pixels")
    return Projection(
        identity=identity,
        acquisition=_acquisition(head["acquisition"]),
        modality=_text(head["modality"]),
        rows=rows,
        columns=columns,
        spacing_mm=_numbers(head["spacing_mm"], 2),
        calibrated=bool(head["calibrated"]),
        pixels=pixels,
    )


def _frames(identity: Identity, *, head: dict[str, Any], placed: Float, pixels: Float32 | None) -> Frames:
    count, rows, columns = (int(n) for n in head["shape"])
    if count < 1 or placed.shape != (count, 11) or not np.isfinite(placed).all():
        raise ValueError("placed")
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
            )
            for number in range(count)
        )
    )


def _contours(identity: Identity, *, of_series: str, arrays: dict[str, NDArray[Any]] | None) -> Contours:
    if arrays is None:
        return Contours(identity=identity, of_series=of_series, points_mm=None, ends=None)
    points, ends = arrays["points_mm"], arrays["ends"]
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all() or ends.ndim != 2 or ends.shape[1] != 2:
        raise ValueError("contours")
    if not len(ends) or not np.isfinite(ends).all() or np.diff(ends[:, 0], prepend=0).min() < 3 or ends[-1, 0] != len(points):
        raise ValueError("ends")
    return Contours(identity=identity, of_series=of_series, points_mm=points, ends=ends)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError("text")
    return value


def _or_nan(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _numbers(values: object, count: int) -> Float:
    array = np.asarray(values, np.float64)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ValueError("numbers")
    return array
