"""The next files are read in guards' children while the caller still works on this one."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import LifoQueue
from typing import Final, Self

from client.imaging.found import Found, Reader, Reason

FEW: Final = 32  # so many files are read before a second reader is worth its start


class Ahead:
    """A reader over others, one file ahead with each, that is told what comes. A context manager; not for two threads at once.

    Each of the others is used by one thread at a time, and the second and further ones after 32 files only. Answers are those
    that they would give; a file that was read ahead and is not asked for next is read again when it is.
    """

    def __init__(self, *readers: Reader) -> None:
        self._most, self._done = len(readers), 0
        self._free: LifoQueue[Reader] = LifoQueue()
        for reader in reversed(readers):
            self._free.put(reader)
        self._pool = ThreadPoolExecutor(self._most)
        self._coming: Iterator[Path] = iter(())
        self._under_way: deque[tuple[Path, bool, Future[Found | Reason]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def expect(self, paths: Iterable[Path]) -> None:
        """Say which files will be asked for, in this order."""
        self._forget()
        self._coming = iter(paths)
        self._fill(with_pixels=True)

    def read(self, path: Path, *, with_pixels: bool) -> Found | Reason:
        """Return what the file holds, or why it is not used."""
        if self._under_way and self._under_way[0][0] != path:
            self._forget()  # another order than was said
        ready = self._under_way.popleft() if self._under_way else None
        if ready is not None and ready[1] == with_pixels:
            answer = ready[2].result()
        else:
            if ready is not None:
                ready[2].exception()  # waits
            answer = self._read(path, with_pixels=with_pixels)
        self._done += 1
        self._fill(with_pixels=with_pixels)
        return answer

    def _forget(self) -> None:
        self._coming = iter(())
        while self._under_way:
            self._under_way.popleft()[2].exception()  # waits

    def _fill(self, *, with_pixels: bool) -> None:
        deep = self._most if self._done >= FEW else 1
        while len(self._under_way) < deep and (path := next(self._coming, None)) is not None:
            self._under_way.append((path, with_pixels, self._pool.submit(self._read, path, with_pixels=with_pixels)))

    def _read(self, path: Path, *, with_pixels: bool) -> Found | Reason:
        reader = self._free.get()
        try:
            return reader.read(path, with_pixels=with_pixels)
        finally:
            self._free.put(reader)
