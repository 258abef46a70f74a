"""The next file is read in the guard's child while the caller still works on this one."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from client.imaging.guard import Found, Reader, Reason


class Ahead:
    """A reader over another one that is told what comes next. A context manager; not for two threads at once.

    The other reader is used by one thread at a time. Answers are those it would give; a file that was read ahead and is not
    asked for next is read again when it is.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._pool = ThreadPoolExecutor(1)
        self._coming: Iterator[Path] = iter(())
        self._under_way: tuple[Path, bool, Future[Found | Reason]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def expect(self, paths: Iterable[Path]) -> None:
        """Say which files will be asked for, in this order."""
        self._settled()
        self._coming = iter(paths)
        self._begin(next(self._coming, None), with_pixels=True)

    def read(self, path: Path, *, with_pixels: bool) -> Found | Reason:
        """Return what the file holds, or why it is not used."""
        ready = self._settled()
        if ready is not None and ready[:2] == (path, with_pixels):
            answer = ready[2].result()
        else:
            if ready is not None and ready[0] != path:
                self._coming = iter(())  # another order than was said
            answer = self._reader.read(path, with_pixels=with_pixels)
        self._begin(next(self._coming, None), with_pixels=with_pixels)
        return answer

    def _settled(self) -> tuple[Path, bool, Future[Found | Reason]] | None:
        """Wait for what is under way and return it."""
        ready, self._under_way = self._under_way, None
        if ready is not None:
            ready[2].exception()
        return ready

    def _begin(self, path: Path | None, *, with_pixels: bool) -> None:
        if path is not None:
            self._under_way = (path, with_pixels, self._pool.submit(self._reader.read, path, with_pixels=with_pixels))
