"""A glance at a run's folder: its journal is read on from where it was left, and never written, beside the coordinator."""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common import roster as rosters
from common import study as studies
from common.errors import ConfigError, MotetError, NotSetUp
from common.locks import held
from common.study import Study
from server.config import Home
from server.state import State
from server.view import view

RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")


@dataclass(slots=True)
class Glance:
    """One run's folder, and what was read of it so far. For one thread."""

    folder: Path
    _study: Study | None = None
    _file: tuple[int, int] = (0, 0)  # the journal's device and inode
    _read_bytes: int = 0
    _events: list[dict[str, Any]] = field(default_factory=list)
    _unreadable: int = 0

    def state(self, *, now: float) -> State:
        """Return the run's state; `now` is Unix time. Raises ConfigError when the run's study.json cannot be read."""
        self._read_on()
        return view(
            self._events,
            run=self.folder.name,
            study=self._read_study(),
            hospitals=self._hospitals(),
            curve=self._curve(),
            now=now,
            lines_unreadable=self._unreadable,
            answered=self._answered(),
            at_work=held(lock) if (lock := self.folder / "run.lock").exists() else None,
            served=held(self.folder.parent.parent / "serve.lock"),
        )

    @property
    def events(self) -> Sequence[dict[str, Any]]:
        """Return the journal's events, as of the last look."""
        return self._events

    def _answered(self) -> set[str]:
        """Return the hospitals whose upload of the round that was announced last is there."""
        told = [event for event in self._events if event.get("type") == "announced"]
        try:
            number = int(told[-1]["announcement"]["round"])
        except (IndexError, KeyError, TypeError, ValueError):
            return set()
        return {path.stem for path in (self.folder / "rounds" / f"{number:06d}").glob("*.envelope")}

    def _read_on(self) -> None:
        """Read the lines that are whole and new; start over where the journal is another file or became shorter."""
        try:
            with (self.folder / "journal.jsonl").open("rb") as file:
                found = self._stat(file.fileno())
                if found[:2] != self._file or found[2] < self._read_bytes:
                    self._file, self._read_bytes, self._events, self._unreadable = found[:2], 0, [], 0
                file.seek(self._read_bytes)
                data = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"The journal cannot be read ({error.strerror}).", action="Check its permissions.") from None
        whole = data.rfind(b"\n") + 1
        self._read_bytes += whole
        for line in data[:whole].splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict):
                self._events.append(event)
            else:
                self._unreadable += 1

    @staticmethod
    def _stat(descriptor: int) -> tuple[int, int, int]:
        found = os.fstat(descriptor)
        return found.st_dev, found.st_ino, found.st_size

    def _read_study(self) -> Study:
        if self._study is None:
            try:
                self._study = studies.parse((self.folder / "study.json").read_bytes())
            except OSError as error:
                raise ConfigError(
                    f"The run's study.json cannot be read ({error.strerror}).", action="Restore it from your backup."
                ) from None
        return self._study

    def _hospitals(self) -> tuple[str, ...]:
        """Return the roster's names: the run's, before it wrote one the coordinator's; none where neither can be read."""
        for folder in (self.folder, self.folder.parent.parent):
            try:
                return rosters.parse((folder / "roster.json").read_bytes()).names
            except (OSError, MotetError):
                continue
        return ()

    def _curve(self) -> list[dict[str, Any]]:
        """Return the held-out curve; none before there is a result."""
        try:
            curve = json.loads((self.folder / "result.json").read_bytes())["training"]["curve"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []
        return [point for point in curve if isinstance(point, dict)] if isinstance(curve, list) else []


def find(home: Home, *, run: str | None) -> Path:
    """Return the folder of a run, of the one that was started last where none is named; raises NotSetUp where there is none."""
    if run is not None and not RUN.match(run):
        raise NotSetUp("This is no name of a run.", action="See the folder `runs` for their names.")
    started = {path.parent: path.stat().st_mtime for path in home.runs.glob(f"{run or '*'}/study.json")}
    if not started:
        raise NotSetUp("There is no such run." if run else "There is no run yet.", action="Run `motet-coordinator run HASH`.")
    return max(started, key=lambda folder: (started[folder], folder.name))


def newest(home: Home, *, run: str | None) -> Callable[[], State | None]:
    """Return what looks at a run; where none is named, at the one that was started last, as of each look. None: no run yet."""
    glances: dict[Path, Glance] = {}

    def look() -> State | None:
        try:
            folder = find(home, run=run)
        except NotSetUp:
            return None
        if folder not in glances:
            glances.clear()
            glances[folder] = Glance(folder)
        return glances[folder].state(now=time.time())

    return look


def unfinished_newer(home: Home, *, than: Path) -> Path | None:
    """Return the run that was started last where it is newer than this one and has no result; None where there is none."""
    try:
        last = find(home, run=None)
    except NotSetUp:  # a restored backup may hold a result alone
        return None
    return None if last == than or (last / "result.json").exists() else last
