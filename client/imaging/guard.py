"""Hostile DICOM bytes are parsed and decoded in a limited child process; back comes a checked image or a coded reason.

The child (client/imaging/decode.py) lives on from file to file. It gets bytes, never a path, and answers JSON through a pipe,
arrays through memory that both see (exchange.py); nothing is pickled, its standard error is thrown away, and a crash, a hang or
a lie costs that one file.
"""

import contextlib
import json
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from client.imaging.answers import SENSELESS, parse
from client.imaging.exchange import Exchange
from client.imaging.found import Found, Reason
from client.imaging.limits import Limits
from common.errors import InternalError

REQUEST = struct.Struct(">BQQ")  # what is asked, bytes of JSON beside the file, bytes of the file
HEADER, PIXELS, IDENTIFIERS, REWRITE = range(4)
ANSWER = struct.Struct(">I")  # bytes of JSON that follow
_ANSWER_MOST = 1 << 20
_STARTUP_S = 60.0
_ACTION = "Is pydicom installed (motet[hospital]), and is there memory for another process?"
_OF_THE_CHILD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),  # bytes; the memory of one file serves for the next one: else its pages are made
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),  # anew for every file, a fifth of the child's time
}
SCRATCH_SPARE_BYTES = 1 << 16  # our own header of what the second decoder reads


class _Died(Exception):
    """The child went away in the middle of an answer."""


class Guard:
    """One child process and its limits. A context manager; not for two threads at once."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._exchange: Exchange | None = None  # as long as the child: what a child left behind may still write
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
        exchange, self._exchange = self._exchange, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        if exchange is not None:
            exchange.close()
        if scratch is not None:
            os.close(scratch)

    def read(self, path: Path, *, with_pixels: bool) -> Found | Reason:
        """Return what the file holds, or why it is not used. Never raises for anything that a file may hold.

        A link, a pipe or a file above `Limits.file_bytes` is refused before a byte is parsed. Raises InternalError when
        the child cannot even be started.
        """
        answer = self.ask(path, kind=PIXELS if with_pixels else HEADER)
        if isinstance(answer, Reason):
            return answer
        try:
            return parse(answer[0], arrays=answer[1], with_pixels=with_pixels, limits=self._limits)
        except SENSELESS:
            self.close()
            return Reason.CRASHED

    def ask(self, path: Path, *, kind: int, beside: bytes = b"") -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | Reason:
        """Return the child's answer as it stands, to be checked by the caller, or why there is none."""
        with _opened(path, most=self._limits.file_bytes) as file:
            return file if isinstance(file, Reason) else self._ask(file, kind=kind, beside=beside)

    def _ask(self, file: int, *, kind: int, beside: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | Reason:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        exchange = self._exchange if self._child is not None and self._exchange is not None else self._start()
        try:
            size = exchange.put(file, most=self._limits.file_bytes)
        except OSError:
            return Reason.NOT_A_FILE
        if size is None:
            return Reason.TOO_LARGE
        try:
            if self._scratch is not None:
                os.ftruncate(self._scratch, size + SCRATCH_SPARE_BYTES)
            self._send(REQUEST.pack(kind, len(beside), size), beside)
            head = self._receive()
            arrays = exchange.take(head.pop("arrays"))
            exchange.tidy()
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

    def _start(self) -> Exchange:
        try:
            exchange = self._started()
        except (OSError, _Died, TimeoutError) as error:
            self.close()
            raise InternalError("The DICOM reader does not start.", action=_ACTION) from error
        return exchange

    def _started(self) -> Exchange:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        self._scratch = os.memfd_create("motet-scratch")  # the child may write no file, and cannot make this one longer
        exchange = self._exchange = Exchange(most=max(self._limits.shared_bytes, self._limits.file_bytes + 1))
        limits, shared = json.dumps(asdict(self._limits)), (self._scratch, exchange.descriptor)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "client.imaging.decode", limits, *map(str, shared)],
            pass_fds=shared,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback may quote the file
            env=environment | _OF_THE_CHILD,
            bufsize=0,
            close_fds=True,
        )
        for pipe in (self._child.stdin, self._child.stdout):
            os.set_blocking(_number(pipe), False)
        if self._take(1, until=time.monotonic() + _STARTUP_S) != b"+":
            raise _Died
        return exchange

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

    def _receive(self) -> dict[str, Any]:
        (size,) = ANSWER.unpack(self._take(ANSWER.size, until=self._until))
        if size > _ANSWER_MOST:
            raise ValueError("answer too long")
        head: dict[str, Any] = json.loads(self._take(size, until=self._until))
        return head

    def _take(self, size: int, *, until: float) -> bytes:
        pipe = _number(self._child and self._child.stdout)
        taken = bytearray()
        while len(taken) < size:
            _await(pipe, select.POLLIN, until=until)
            if not (got := os.read(pipe, size - len(taken))):
                raise _Died
            taken += got
        return bytes(taken)


@contextlib.contextmanager
def _opened(path: Path, *, most: int) -> Iterator[int | Reason]:
    """Open a regular file of at most `most` bytes, or say why not."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        yield Reason.LINK if path.is_symlink() else Reason.NOT_A_FILE
        return
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            yield Reason.NOT_A_FILE
        else:
            yield Reason.TOO_LARGE if status.st_size > most else descriptor
    finally:
        os.close(descriptor)


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
