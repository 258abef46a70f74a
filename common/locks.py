"""One process per folder: a lock that the kernel releases when its holder dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import AlreadyRunning, ConfigError, NotSetUp

TRIES = 5  # who asks whether a lock is held holds it for a moment
AGAIN_S = 0.02


@contextmanager
def hold(path: Path, *, busy: str) -> Iterator[None]:
    """Hold the lock at `path`; raises AlreadyRunning with the sentence `busy` when somebody else does, or ConfigError."""
    try:
        file = path.open("ab")
    except FileNotFoundError:
        raise NotSetUp(f"{path.parent} is not there.", action="Run `init` first.") from None
    except OSError as error:
        what = f"{path} cannot be written ({error.strerror})."
        raise ConfigError(what, action="Check its owner, and the disk.") from None
    with file:
        for left in reversed(range(TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise AlreadyRunning(busy, action="Wait for it, or stop it first.") from None
                time.sleep(AGAIN_S)
        yield


def held(path: Path) -> bool:
    """Tell whether somebody holds the lock at `path`; nothing is written, not even the lock's file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
