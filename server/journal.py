"""What the coordinator did, one JSON line per event, synced as it happens; the run can be followed and told from it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """An append-only file of events of one run."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`, new or to be continued; a half-written last line is cut off."""
        self.path = path
        if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)

    def write(self, event: dict[str, Any]) -> None:
        """Append one event, on disk before this returns."""
        with self.path.open("ab") as file:
            file.write(json.dumps(event, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def events(self) -> Iterator[dict[str, Any]]:
        """Return the events so far; a half-written last line, as a crash leaves it, is left out."""
        if not self.path.exists():
            return
        for line in self.path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)
