"""One process per folder: a lock that the kernel releases when its holder dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import AlreadyRunning, NotSetUp


@contextmanager
def hold(path: Path, *, busy: str) -> Iterator[None]:
    """Hold the lock at `path`; raises AlreadyRunning with the sentence `busy` when somebody else does."""
    try:
        file = path.open("ab")
    except OSError:
        raise NotSetUp(f"{path.parent} is not there.", action="Run `init` first.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(busy, action="Wait for it, or stop it first.") from None
        yield


def held(path: Path) -> bool:
    """Tell whether somebody holds the lock at `path`."""
    try:
        with hold(path, busy=""):
            return False
    except AlreadyRunning:
        return True
    except NotSetUp:
        return False
