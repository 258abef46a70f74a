"""Takes files out of a folder that another program still writes to: each is copied into the inbox once it has settled."""

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from client.sources.inbox import OBJECT_BYTES_MOST, Inbox, Put, Tally

SETTLED_S: Final = 10.0  # unchanged for so long: whole

Stamp = tuple[int, int]  # bytes, modified (ns)


@dataclass(slots=True)
class Watch:
    """What is known of a folder from one look to the next. The folder is only read; links are not followed."""

    folder: Path
    inbox: Inbox
    tally: Tally = field(default_factory=Tally.empty)
    settled_s: float = SETTLED_S
    _seen: dict[Path, tuple[Stamp, float]] = field(default_factory=dict)  # since when it looks like this
    _done: dict[Path, Stamp] = field(default_factory=dict)

    def look(self, *, now: float) -> None:
        """Take every file that is new or changed and has looked the same for `settled_s`; `now` is a monotonic clock."""
        there: set[Path] = set()
        for place, _, names in os.walk(self.folder, followlinks=False):
            for name in names:
                path = Path(place) / name
                there.add(path)
                self._consider(path, now=now)
        for known in (self._seen, self._done):
            for path in [path for path in known if path not in there]:
                del known[path]

    def until(self, stop: threading.Event, *, every_s: float, clock: Callable[[], float]) -> None:
        """Look again and again until `stop` is set."""
        while not stop.is_set():
            self.look(now=clock())
            stop.wait(every_s)

    def _consider(self, path: Path, *, now: float) -> None:
        try:
            status = path.lstat()
        except OSError:
            return
        stamp = (status.st_size, status.st_mtime_ns)
        if not stat.S_ISREG(status.st_mode) or self._done.get(path) == stamp:
            return
        seen = self._seen.get(path)
        if seen is None or seen[0] != stamp:
            self._seen[path] = (stamp, now)
        elif now - seen[1] >= self.settled_s:
            data = _read(path)
            outcome = Put.TOO_LARGE if data is None else self.inbox.put(data)
            self.tally.add(outcome)
            if outcome is not Put.DISK_FULL:  # tried again at the next look
                self._done[path] = stamp
                del self._seen[path]


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(OBJECT_BYTES_MOST + 1)
    except OSError:
        return b""  # not readable: NOT_DICOM
    return None if len(data) > OBJECT_BYTES_MOST else data
