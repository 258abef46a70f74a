"""The ledger's file: append-only entries in SQLite, each with its hash, synced to disk before a transaction ends."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common import files
from common.errors import AlreadyExists, InternalError, MotetError, NotSetUp, RecordDamaged, RecordUnwritable
from common.ledger import merkle

SCHEMA = {
    "leaf": "CREATE TABLE leaf(seq INTEGER PRIMARY KEY, data BLOB NOT NULL, hash BLOB NOT NULL)",
    "no_update": "CREATE TRIGGER no_update BEFORE UPDATE ON leaf BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "no_delete": "CREATE TRIGGER no_delete BEFORE DELETE ON leaf BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "no_gap": "CREATE TRIGGER no_gap BEFORE INSERT ON leaf WHEN NEW.seq <> (SELECT COALESCE(MAX(seq) + 1, 0) FROM leaf) "
    "BEGIN SELECT RAISE(ABORT, 'append-only'); END",
}
FORMAT = 1  # user_version of the file
BUSY_S = 30


class Leaves:
    """An open file of entries; shared by threads, and with other processes.

    Raises RecordUnwritable when the file cannot be written (full or read-only disk, lock held), RecordDamaged when it is
    not what was written.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open and check the file; raises NotSetUp where there is none."""
        if not path.is_file():
            raise NotSetUp(f"{path} is missing.", action="Set the hospital up first, or restore the newest ledger.")
        self._lock = threading.RLock()
        with _translated():
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            with _translated():
                self._check()
                for setting in ("journal_mode = WAL", "synchronous = FULL") if writable else ("query_only = 1",):
                    self._db.execute(f"PRAGMA {setting}")
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def create(path: Path, *, first: bytes) -> None:
        """Write a file that holds one entry: its name appears with the entry or not at all; raises AlreadyExists."""
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            os.close(os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
            with _translated():
                _write_first(unfinished, first)
            os.link(unfinished, path)  # fails where a file is
            files.sync_folder(path.parent)
        except FileExistsError:
            raise AlreadyExists(
                f"{path} is there already.", action="Keep it: a new ledger would forget what was spent."
            ) from None
        except OSError as error:
            raise _unwritable(error.strerror or "input or output failed") from None
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock; at the end everything appended is on disk, and nothing of it when anything raised."""
        with self._lock, _translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep other threads out."""
        with self._lock, _translated():
            yield

    def append(self, seq: int, *, data: bytes) -> None:
        """Add entry `seq`, which must be the next one."""
        self._db.execute("INSERT INTO leaf(seq, data, hash) VALUES (?, ?, ?)", (seq, data, merkle.leaf_hash(data)))

    def since(self, start: int, *, most: int = -1) -> list[bytes]:
        """Return the entries from number `start` on, at most `most`, each checked against its hash."""
        with self.reading():
            rows = self._db.execute(
                "SELECT seq, data, hash FROM leaf WHERE seq >= ? ORDER BY seq LIMIT ?", (start, most)
            ).fetchall()
            (last,) = self._db.execute("SELECT MAX(seq) FROM leaf").fetchone()
        if last is None or last + 1 < start:
            raise _damaged("The ledger lost entries.")
        for number, (seq, data, digest) in enumerate(rows, start=start):
            if seq != number or type(data) is not bytes or merkle.leaf_hash(data) != digest:
                raise _damaged(f"Entry {number} of the ledger was changed.")
        return [data for _, data, _ in rows]

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._db.close()

    def _check(self) -> None:
        if self._db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise _damaged("The ledger's file is damaged.")
        schema = dict(self._db.execute("SELECT name, sql FROM sqlite_master").fetchall())
        if schema != SCHEMA or self._db.execute("PRAGMA user_version").fetchone() != (FORMAT,):
            raise _damaged("The ledger's tables are not those that Motet makes.")


def _write_first(path: Path, data: bytes) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.values():
            connection.execute(statement)
        connection.execute("INSERT INTO leaf(seq, data, hash) VALUES (0, ?, ?)", (data, merkle.leaf_hash(data)))
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    finally:
        connection.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MotetError:
        raise
    except sqlite3.ProgrammingError:
        raise InternalError("The ledger is closed.", action="Report this; nothing was written.") from None
    except sqlite3.OperationalError as error:
        raise _unwritable(str(error)) from None
    except sqlite3.Error:
        raise _damaged("The ledger's file is damaged.") from None


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(
        what, action="Stop, keep the file, restore the newest backup, and compare it with the coordinator's last checkpoint."
    )


def _unwritable(reason: str) -> RecordUnwritable:
    return RecordUnwritable(f"The ledger cannot be written ({reason}).", action="Free the disk or its lock, then start again.")
