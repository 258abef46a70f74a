"""What the coordinator did, one JSON line per event, synced as it happens; the run can be followed and told from it."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from common.errors import RecordDamaged

BLOCK_BYTES: Final = 1 << 12
BEGUN: Final = frozenset({"start", "resumed"})
ENDED: Final = frozenset({"done", "failed", "stopped"})

Life = list[dict[str, Any]]  # the events since a run was last begun or resumed


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
        with self._locked() as file:
            self._append(file, event, synced=synced)

    def write_if(self, event: dict[str, Any], allowed: Callable[[Life], bool]) -> bool:
        """Append one event, synced, where `allowed` says so of the run's life; return whether it was written.

        Nobody writes between the two. Raises as `events`.
        """
        with self._locked() as file:
            if not allowed(self.life()):
                return False
            self._append(file, event, synced=True)
        return True

    def write_while_open(self, event: dict[str, Any]) -> bool:
        """Append one event unless the run has ended since it was last begun or resumed; see write_if."""
        return self.write_if(event, lambda life: how_ended(life) is None)

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _append(self, file: IO[bytes], event: Mapping[str, Any], *, synced: bool) -> None:
        self._cut(file)
        file.write(json.dumps(event, sort_keys=True).encode() + b"\n")
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

    def life(self) -> Life:
        """Return the events since the run was last begun or resumed; raises as `events`."""
        events = list(self.events())
        at = max((number for number, event in enumerate(events) if event["type"] in BEGUN), default=0)
        return events[at:]

    def ended(self) -> bool:
        """Tell whether the run ended since it was last begun or resumed; raises as `events`."""
        return how_ended(self.life()) is not None


def how_ended(life: Life) -> str | None:
    """Return how a life ended first, `done`, `failed` or `stopped`; None where it has not."""
    return next((str(event["type"]) for event in life if event["type"] in ENDED), None)
