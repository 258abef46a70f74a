"""What was set aside, why and since when: kept over restarts, and not parsed again until the file or the code changes."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.imaging.found import Expecting, Found, Frames, Projection, Reader, Reason, Slice, series_of
from client.inside import SetAside
from common.errors import ConfigError, InternalError, RecordUnwritable

CHEAP: Final = frozenset({Reason.LINK, Reason.NOT_A_FILE})  # decided without parsing, by what is not in the file
BY_CHANCE: Final = frozenset({Reason.CRASHED, Reason.TIMED_OUT})  # a busy machine may be at fault
TRIES: Final = 3  # of what may be chance
SHOWN: Final = 12  # hexadecimal digits of a pseudonym; half a million entries collide with probability below 1e-3
ANY_RECIPE: Final = ""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS aside (
  recipe TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL,
  size_bytes INTEGER, modified_ns INTEGER, changed_ns INTEGER, code TEXT NOT NULL,
  since INTEGER NOT NULL, readings INTEGER NOT NULL, reading INTEGER NOT NULL, PRIMARY KEY (recipe, id)
) STRICT;
CREATE TABLE IF NOT EXISTS reading (
  number INTEGER PRIMARY KEY, recipe TEXT NOT NULL, code TEXT NOT NULL, began INTEGER NOT NULL, ended INTEGER, usable INTEGER
) STRICT;
"""

Stamp = tuple[int, int, int]  # bytes, modified, changed (ns): a file with the same three is the same file


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """One file or series that is not used. `id` is a keyed pseudonym; no path, no value."""

    id: str
    kind: str  # file, series
    reason: str
    since: int  # Unix time at which it was first set aside for this reason
    readings: int  # in how many readings it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last reading of the folder that came to its end; `usable` counts series."""

    ended: int
    usable: int


class Quarantine:
    """The list on the vault's disk (SQLite, 0600). It holds paths, which may hold names: nothing of them is printed.

    A damaged file is moved aside as `.damaged` and the list begins anew: everything is then parsed once more. Raises
    RecordUnwritable, and so does a reading, on a full or read-only disk and where another process holds it.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int]) -> None:
        self.path, self.clock = path, clock
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            with _unwritable():  # locked or full, not damaged
                self._open()
        except sqlite3.DatabaseError:
            path.replace(path.with_name(path.name + ".damaged"))
            for beside in ("-wal", "-shm"):
                path.with_name(path.name + beside).unlink(missing_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._open()

    def _open(self) -> None:
        self.store = sqlite3.connect(self.path, isolation_level=None, timeout=30.0)
        try:
            self.store.execute("PRAGMA journal_mode=WAL")
            self.store.execute("PRAGMA synchronous=NORMAL")  # what a power cut takes away is parsed once more
            self.store.executescript(SCHEMA)
        except sqlite3.DatabaseError:
            self.store.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()

    def begin(self, *, root: Path, recipe: str, code: str, pseudonym: Callable[[str, str], str]) -> "Reading":
        """Begin a reading of `root` under a recipe and a version of the code."""
        return Reading(self, root=root, recipe=recipe, code=code, pseudonym=pseudonym)


class Reading:
    """One reading of the scans: a `Reader` that skips what is known to be bad, and a place to write down what is set aside."""

    def __init__(
        self, quarantine: Quarantine, *, root: Path, recipe: str, code: str, pseudonym: Callable[[str, str], str]
    ) -> None:
        self._store, self._clock = quarantine.store, quarantine.clock
        self._root, self._recipe, self._code, self._pseudonym = root, recipe, code, pseudonym
        self._reader: Reader | None = None
        self._mine: dict[str, str] = {}  # name -> reason, of files that this reading found bad
        self._series: dict[str, str] = {}  # pseudonym of a series -> its first file
        with _unwritable():
            cursor = self._store.execute(
                "INSERT INTO reading (recipe, code, began) VALUES (?, ?, ?)", (recipe, code, self._clock())
            )
        self._number = cursor.lastrowid
        known = self._store.execute(
            "SELECT name, reason, size_bytes, modified_ns, changed_ns, readings FROM aside WHERE kind = 'file' AND code = ?",
            (code,),
        )
        self._known: dict[str, tuple[Reason, Stamp]] = {
            name: (Reason(reason), (size, modified, changed))
            for name, reason, size, modified, changed, readings in known
            if reason not in CHEAP and (reason not in BY_CHANCE or readings >= TRIES)
        }

    def through(self, reader: Reader) -> "Reading":
        """Return this reading as a reader that asks `reader` for what it does not know."""
        self._reader = reader
        return self

    def expect(self, paths: Iterable[Path]) -> None:
        """Say which files will be asked for; those that are known to be bad will not be."""
        inner: object = self._reader
        if isinstance(inner, Expecting):
            inner.expect(path for path in paths if self._remembered(path) is None)

    def read(self, path: Path, *, with_pixels: bool) -> Found | Reason:
        """Return what the file holds, or why it is not used; a file that is known to be bad is not opened."""
        name, stamp = _name(path, root=self._root), _stamp(path)
        if (known := self._remembered(path)) is not None:
            answer: Found | Reason = known
        elif self._reader is None:
            raise InternalError("A reading has no reader.", action="Report this.")
        else:
            answer = self._reader.read(path, with_pixels=with_pixels)
        if isinstance(answer, Reason):
            self._mine[name] = answer
            self._put(ANY_RECIPE, name=name, kind="file", reason=answer, stamp=stamp)
        elif isinstance(answer, Slice | Frames | Projection):
            one = answer.slices[0] if isinstance(answer, Frames) else answer
            self._series.setdefault(self._pseudonym("series", series_of(one.identity, modality=one.modality)), name)
        return answer

    def _remembered(self, path: Path) -> Reason | None:
        known = self._known.get(_name(path, root=self._root))
        return known[0] if known is not None and known[1] == _stamp(path) else None

    def note(self, item: SetAside) -> None:
        """Write down a series, or a file that is bad among the others; both are looked at again in each reading."""
        if self._mine.get(item.name) != item.reason:
            name = self._series.get(item.name, item.name)
            self._put(self._recipe, name=name, kind="series", reason=item.reason, stamp=None)

    def end(self, *, usable: int) -> None:
        """End the reading: what it did not set aside again is forgotten."""
        with _unwritable(), self._store:
            self._store.execute(
                "DELETE FROM aside WHERE recipe IN (?, ?) AND reading < ?", (ANY_RECIPE, self._recipe, self._number)
            )
            self._store.execute("DELETE FROM reading WHERE recipe = ? AND number < ?", (self._recipe, self._number))
            self._store.execute(
                "UPDATE reading SET ended = ?, usable = ? WHERE number = ?", (self._clock(), usable, self._number)
            )

    def _put(self, recipe: str, *, name: str, kind: str, reason: str, stamp: Stamp | None) -> None:
        with _unwritable():
            self._store.execute(
                "INSERT INTO aside VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (recipe, id) DO UPDATE SET"
                " since = CASE WHEN reason = excluded.reason THEN since ELSE excluded.since END,"
                " readings = CASE WHEN reason <> excluded.reason THEN 1 ELSE readings + (reading <> excluded.reading) END,"
                " kind = excluded.kind, name = excluded.name, reason = excluded.reason, size_bytes = excluded.size_bytes,"
                " modified_ns = excluded.modified_ns, changed_ns = excluded.changed_ns, code = excluded.code,"
                " reading = excluded.reading",
                (
                    recipe,
                    self._pseudonym("file", name)[:SHOWN],
                    kind,
                    name,
                    reason,
                    *(stamp or (None, None, None)),
                    self._code,
                    self._clock(),
                    self._number,
                ),
            )


def look(path: Path) -> tuple[list[Aside], Last | None]:
    """Return what is set aside, by reason and time, and the last reading; nothing and None where nothing was read yet.

    So it is where the list is damaged: the vault makes a new one at its next reading. Raises ConfigError if it cannot be read.
    """
    rows, last = _rows(
        path,
        "SELECT id, kind, reason, min(since), max(readings) FROM aside GROUP BY id, kind, reason ORDER BY reason, 4, id",
        "SELECT ended, usable FROM reading WHERE ended IS NOT NULL ORDER BY number DESC LIMIT 1",
    )
    found = [Aside(id=i, kind=kind, reason=reason, since=since, readings=n) for i, kind, reason, since, n in rows]
    return found, Last(ended=last[0][0], usable=last[0][1]) if last else None


def paths(path: Path) -> list[tuple[str, str, str]]:
    """Return (id, reason, path in the scan folder) of what is set aside; for a private file, never for a screen.

    Nothing, or ConfigError, as `look`.
    """
    return _rows(path, "SELECT DISTINCT id, reason, name FROM aside ORDER BY reason, name")[0]


def _rows(path: Path, *asked: str) -> list[list[Any]]:
    nothing: list[list[Any]] = [[] for _ in asked]
    if not path.exists():
        return nothing
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30.0)) as store:
            if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'aside'").fetchone():
                return nothing
            return [store.execute(one).fetchall() for one in asked]
    except sqlite3.OperationalError as error:
        raise ConfigError(
            f"The list of what was set aside cannot be read ({error}).", action="Check its permissions, or try again."
        ) from None
    except sqlite3.DatabaseError:
        return nothing


@contextmanager
def _unwritable() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RecordUnwritable(
            f"The list of what was set aside cannot be written ({error}).",
            action="Free the disk or its lock, then start again.",
        ) from None


def _name(path: Path, *, root: Path) -> str:
    """Return the name that `read_scans` gives a file."""
    return os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
