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

PATIENCE: Final = 6  # settling times after which `once` gives up a file that never settles
NOT_SETTLED: Final = "NOT_SETTLED"

Stamp = tuple[int, int, int]  # bytes, modified, changed (ns); mended permissions are a change


@dataclass(slots=True)
class Watch:
    """What is known of a folder from one look to the next. The folder is only read; links are not followed."""

    folder: Path
    inbox: Inbox
    tally: Tally = field(default_factory=Tally.empty)
    settled_s: float = SETTLED_S
    _seen: dict[Path, tuple[Stamp, float]] = field(default_factory=dict)  # since when it looks like this
    _done: dict[Path, Stamp] = field(default_factory=dict)
    _closed: set[str] = field(default_factory=set)  # folders that may not be opened, each counted once

    def look(self, *, now: float) -> None:
        """Take every file that is new or changed and has looked the same for `settled_s`; `now` is a monotonic clock."""
        there: set[Path] = set()
        for place, _, names in os.walk(self.folder, followlinks=False, onerror=self._cannot_open):
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

    def once(self, stop: threading.Event, *, every_s: float, clock: Callable[[], float]) -> None:
        """Take what is there now, each file once it has settled.

        After six settling times, or where `stop` is set before, the rest counts as NOT_SETTLED.
        """
        began = clock()
        self.look(now=began)
        while self._seen and clock() - began <= PATIENCE * self.settled_s and not stop.wait(every_s):
            self.look(now=clock())
        if self._seen:
            self.tally.add(NOT_SETTLED, times=len(self._seen))

    def _cannot_open(self, error: OSError) -> None:
        """Count a folder that cannot be listed; one that is gone is nothing to read."""
        if not isinstance(error, FileNotFoundError) and error.filename not in self._closed:
            self._closed.add(error.filename)
            self.tally.add(Put.UNREADABLE)

    def _consider(self, path: Path, *, now: float) -> None:
        try:
            status = path.lstat()
        except OSError:
            return
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if not stat.S_ISREG(status.st_mode) or self._done.get(path) == stamp:
            return
        seen = self._seen.get(path)
        if seen is None or seen[0] != stamp:
            self._seen[path] = (stamp, now)
        elif now - seen[1] >= self.settled_s:
            data = _read(path)
            outcome = data if isinstance(data, Put) else self.inbox.put(data)
            self.tally.add(outcome)
            if outcome not in {Put.DISK_FULL, Put.NOT_WRITTEN}:  # tried again at the next look
                self._done[path] = stamp
                del self._seen[path]


def _read(path: Path) -> bytes | Put:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(OBJECT_BYTES_MOST + 1)
    except OSError:
        return Put.UNREADABLE
    return Put.TOO_LARGE if len(data) > OBJECT_BYTES_MOST else data
