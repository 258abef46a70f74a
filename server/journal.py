"""What the coordinator did, one JSON line per event, synced as it happens; the run can be followed and told from it."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from common.errors import RecordDamaged

BLOCK_BYTES: Final = 1 << 12
BEGUN: Final = frozenset({"start", "resumed"})
ENDED: Final = frozenset({"done", "failed", "stopped"})


class Journal:
    """An append-only file of events of one run."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`, new or to be continued. Who only reads changes nothing."""
        self.path = path

    def write(self, event: dict[str, Any], *, synced: bool = True) -> None:
        """Append one event, on disk before this returns. What a crash left of a last line is cut off first.

        With `synced` false it is on disk once the next synced event is; until then a power cut may take it.
        One write call under a lock: the ServerApp, its threads and `motet-coordinator run` may write side by side.
        """
        line = json.dumps(event, sort_keys=True).encode() + b"\n"
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._cut(file)
            file.write(line)
            file.flush()
            if synced:
                os.fsync(file.fileno())

    @staticmethod
    def _cut(file: IO[bytes]) -> None:
        end = file.seek(0, os.SEEK_END)
        at = end
        while at > 0:
            start = max(0, at - BLOCK_BYTES)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                at = start + found + 1
                break
            at = start
        if at < end:
            file.truncate(at)
        file.seek(0, os.SEEK_END)

    def rounds(self) -> dict[int, dict[str, Any]]:
        """Return the rounds that ended, by number; one that was void and then opened, by a later life, as it ended last."""
        return {event["round"]: event for event in self.events() if event["type"] == "round"}

    def events(self) -> Iterator[dict[str, Any]]:
        """Return the events so far; a half-written last line, as a crash leaves it, is left out.

        Raises RecordDamaged at a line that is no event: a journal that was changed is not gone on with.
        """
        if not self.path.exists():
            return
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise RecordDamaged(
                    f"Line {number} of the run's journal is no event.", action="Restore the run's folder, or start a new run."
                )
            yield event

    def life(self) -> list[dict[str, Any]]:
        """Return the events since the run was last begun or resumed; raises as `events`."""
        events = list(self.events())
        at = max((number for number, event in enumerate(events) if event["type"] in BEGUN), default=0)
        return events[at:]

    def ended(self) -> bool:
        """Tell whether the run ended since it was last begun or resumed; raises as `events`."""
        return any(event["type"] in ENDED for event in self.life())
