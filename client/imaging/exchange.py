"""Memory that a guard and its child both see: a file's bytes go in through it, the arrays of its answer come out.

Its size is sealed, because a child that made it shorter would end its parent at the next look. Whatever lies in it may change
at any moment; so the parent takes a copy, and checks that.
"""

import contextlib
import fcntl
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.inside import freeze

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8"), "uint8": np.dtype("u1")}
STORED: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "uint16": np.dtype("<u2")}  # come with slope and intercept
FLOAT32_WHOLE = 1 << 24  # whole numbers below it are float32s
ALIGNED = 64
KEPT_BYTES = 1 << 24  # of the shared memory between two files; more is given back
BLOCK_BYTES = 1 << 26  # touched as it is used; numpy asks for huge pages, of which the ends of a block are not made
PART_BYTES = (1 << 16, 1 << 22)  # of an answer that is put into a block
AXES_MOST = 3  # of an array


@dataclass(frozen=True, slots=True)
class Stored:
    """Pixels as the file has them, of 16 bits; what they mean is slope * values + intercept, exact in float32."""

    values: NDArray[Any]
    slope: float
    intercept: float


Arrays = Mapping[str, NDArray[Any] | Stored]


def exact(slope: float, intercept: float) -> bool:
    """Tell whether 16-bit values, rescaled, are whole numbers that float32 holds."""
    return slope.is_integer() and intercept.is_integer() and abs(slope) * 65535 + abs(intercept) < FLOAT32_WHOLE


class Exchange:
    """The guard's side. Raises OSError where the system gives no memory."""

    def __init__(self, *, most: int) -> None:
        self._size = -(-most // mmap.PAGESIZE) * mmap.PAGESIZE
        self.descriptor = os.memfd_create("motet-exchange", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, self._size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._memory = mmap.mmap(self.descriptor, self._size)
        self._block = np.empty(0, np.uint8)  # what is left of the memory for the next answers

    def close(self) -> None:
        """Give the memory back; as long as an error in hand still looks at it, the mapping goes with that error."""
        with contextlib.suppress(BufferError):
            self._memory.close()
        os.close(self.descriptor)

    def put(self, file: int, *, most: int) -> int | None:
        """Read an open file into it and return its size in bytes; None where it has more than `most`."""
        with memoryview(self._memory) as memory:
            size = 0
            while size <= most and (got := os.readv(file, [memory[size : most + 1]])):
                size += got
        return size if size <= most else None

    def take(self, announced: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays that the child says lie here, frozen, in memory that it cannot reach, 16-bit values rescaled.

        Raises ValueError, TypeError, KeyError or OverflowError where that cannot be.
        """
        arrays: dict[str, NDArray[Any]] = {}
        at = 0
        for name, (kind, shape, *scale) in announced.items():
            dtype = STORED[kind] if scale else DTYPES[kind]
            if len(shape) > AXES_MOST:
                raise ValueError("shape")  # before their product is made, which may take long
            sizes = [int(size) for size in shape]
            count = math.prod(sizes)
            if min(sizes, default=0) < 0 or at + count * dtype.itemsize > self._size:
                raise ValueError("array too large")
            there = np.frombuffer(self._memory, dtype, count, at) if count else np.empty(0, dtype)
            arrays[name] = (self._rescaled(there, *scale) if scale else self._copied(there)).reshape(sizes)
            freeze(arrays[name])
            at += -(-count * dtype.itemsize // ALIGNED) * ALIGNED
        return arrays

    def tidy(self) -> None:
        """Give back what a large file or answer took."""
        if self._size > KEPT_BYTES and os.fstat(self.descriptor).st_blocks * 512 > KEPT_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE, KEPT_BYTES, self._size - KEPT_BYTES)

    def _copied(self, there: NDArray[Any]) -> NDArray[Any]:
        own = self._room(there.nbytes).view(there.dtype)
        own[:] = there
        return own

    def _rescaled(self, there: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
        slope, intercept = float(slope), float(intercept)
        if not exact(slope, intercept):
            raise ValueError("scale")
        own: NDArray[np.float32] = self._room(4 * there.size).view(np.float32)
        if slope == 1:
            np.add(there, np.float32(intercept), out=own, dtype=np.float32)
        else:
            np.multiply(there, np.float32(slope), out=own, dtype=np.float32)
            own += np.float32(intercept)
        return own

    def _room(self, size: int) -> NDArray[np.uint8]:
        """Return memory for `size` bytes: a slice gets part of a block, whose huge pages cost less than many small ones."""
        if not PART_BYTES[0] <= size <= PART_BYTES[1]:
            return np.empty(size, np.uint8)
        if len(self._block) < size:
            self._block = np.empty(BLOCK_BYTES, np.uint8)
        taken, self._block = self._block[:size], self._block[-(-size // ALIGNED) * ALIGNED :]
        return taken


class Window:
    """The child's side, which may write no file and maps no more than a part at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._first = mmap.mmap(descriptor, min(KEPT_BYTES, self._size))

    def file(self, size: int) -> bytes:
        """Return the file that was put in."""
        return os.pread(self._descriptor, size, 0)

    def put(self, arrays: Arrays) -> dict[str, Any]:
        """Write the arrays of an answer one after the other and return how they are announced."""
        announced: dict[str, Any] = {}
        at = 0
        for name, given in arrays.items():
            array = np.ascontiguousarray(given.values if isinstance(given, Stored) else given)
            scale = [given.slope, given.intercept] if isinstance(given, Stored) else []
            kinds = STORED if scale else DTYPES
            announced[name] = [next(kind for kind, dtype in kinds.items() if dtype == array.dtype), list(array.shape), *scale]
            if array.size:
                self._write(array.data.cast("B"), at=at)
            at += -(-array.nbytes // ALIGNED) * ALIGNED
        return announced

    def _write(self, data: memoryview, *, at: int) -> None:
        if at + len(data) > self._size:
            raise MemoryError
        for window in range(at - at % KEPT_BYTES, at + len(data), KEPT_BYTES):
            start, end = max(at, window), min(at + len(data), window + KEPT_BYTES)
            if window == 0:
                self._first[start:end] = data[: end - at]
                continue
            with mmap.mmap(self._descriptor, min(KEPT_BYTES, self._size - window), offset=window) as memory:
                memory[start - window : end - window] = data[start - at : end - at]
