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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from client.imaging.answers import SENSELESS, parse
from client.imaging.found import Found, Reason
from client.inside import freeze
from common.errors import InternalError

REQUEST = struct.Struct(">BQQ")  # what is asked, bytes of JSON beside the file, bytes of the file
HEADER, PIXELS, IDENTIFIERS, REWRITE = range(4)
ANSWER = struct.Struct(">I")  # bytes of JSON that follow, then the arrays that it announces
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8"), "uint8": np.dtype("u1")}
_ANSWER_MOST = 1 << 20
_PIPE_BYTES = 1 << 20
_STARTUP_S = 60.0
SCRATCH_SPARE_BYTES = 1 << 16  # our own header of what the second decoder reads
BLOCK_BYTES = 1 << 26  # touched as it is used; numpy asks for huge pages, of which the ends of a block are not made
PART_BYTES = (1 << 16, 1 << 22)  # of an answer that is put into a block
ALIGNED = 64


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


class _Died(Exception):
    """The child went away in the middle of an answer."""


class Guard:
    """One child process and its limits. A context manager; not for two threads at once."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._scratch: int | None = None  # memory in which the child's second decoder finds a file
        self._until = 0.0  # monotonic clock; when the file in hand is given up
        self._block = np.empty(0, np.uint8)  # what is left of the memory for the next answers

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
            return parse(answer[0], arrays=answer[1], with_pixels=with_pixels)
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

    def _room(self, size: int) -> NDArray[np.uint8]:
        """Return memory for `size` bytes: a slice gets part of a block, whose huge pages cost less than many small ones."""
        if not PART_BYTES[0] <= size <= PART_BYTES[1]:
            return np.empty(size, np.uint8)
        if len(self._block) < size:
            self._block = np.empty(BLOCK_BYTES, np.uint8)
        taken, self._block = self._block[:size], self._block[-(-size // ALIGNED) * ALIGNED :]
        return taken

    def _take(self, size: int, *, until: float) -> memoryview:
        pipe = _number(self._child and self._child.stdout)
        taken, view = self._room(size).data, 0
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
