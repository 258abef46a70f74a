"""The scans inbox: whole files appear in it in one step, named by their content; nothing in it is ever replaced."""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from common.errors import ConfigError

OBJECT_BYTES_MOST: Final = 256 << 20  # what the guard reads of one file
FREE_BYTES_LEAST: Final = 5 << 30  # below it nothing more is taken
DIGITS: Final = 32  # 128 bits of SHA-256
REMAINS_S: Final = 3600.0  # nobody is writing a file any longer that was last touched so long ago


class Put(StrEnum):
    """What became of one object."""

    STORED = "STORED"
    AGAIN = "AGAIN"  # the same bytes are there
    TOO_LARGE = "TOO_LARGE"
    NOT_DICOM = "NOT_DICOM"  # no file header (PS3.10, 7.1)
    DISK_FULL = "DISK_FULL"
    NOT_WRITTEN = "NOT_WRITTEN"  # the inbox refuses: its owner, its permissions, its disk
    UNREADABLE = "UNREADABLE"  # of a watched folder: a file or folder that may not be opened


@dataclass(slots=True)
class Tally:
    """How many objects ended how; counts only."""

    counts: dict[str, int]
    lock: threading.Lock

    @classmethod
    def empty(cls) -> "Tally":
        """Return a tally of nothing."""
        return cls({}, threading.Lock())

    def add(self, what: str, *, times: int = 1) -> None:
        """Count `what`; safe from several threads."""
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + times


class Inbox:
    """`folder/scans`, which the vault reads, and `folder/unfinished` beside it, which nobody reads.

    A file is written in `unfinished`, synced, then renamed into `scans`: the vault never sees half a file. Its name is the
    SHA-256 of its bytes, so that nothing received chooses a path, and the same object twice is one file. Files are 0640 in the
    folder's group. Several processes may fill one inbox.
    Raises ConfigError where the folders cannot be made or lie on two file systems.
    """

    def __init__(self, folder: Path, *, free_bytes_least: int = FREE_BYTES_LEAST) -> None:
        self.scans, self.unfinished = folder / "scans", folder / "unfinished"
        self.free_bytes_least = free_bytes_least
        try:
            for part in (self.scans, self.unfinished):
                part.mkdir(mode=0o2750, parents=True, exist_ok=True)
            for remains in self.unfinished.iterdir():  # of a receiver that was killed; a younger one may be another's at work
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - remains.stat().st_mtime > REMAINS_S:
                        remains.unlink()
            apart = self.scans.stat().st_dev != self.unfinished.stat().st_dev
        except OSError as error:
            raise ConfigError(
                f"The inbox cannot be used ({error.strerror}).", action="Check --inbox, its owner and permissions."
            ) from None
        if apart:
            raise ConfigError("The inbox lies on two file systems.", action="Put `scans` and `unfinished` on one.")

    def put(self, data: bytes) -> Put:
        """Keep one DICOM file; on disk when this returns STORED or AGAIN. Nothing is parsed. Safe from several threads."""
        if len(data) > OBJECT_BYTES_MOST:
            return Put.TOO_LARGE
        if data[128:132] != b"DICM":
            return Put.NOT_DICOM
        name = hashlib.sha256(data).hexdigest()[:DIGITS]
        target = self.scans / name[:2] / f"{name}.dcm"
        if target.exists():
            return Put.AGAIN
        if shutil.disk_usage(self.scans).free - len(data) < self.free_bytes_least:
            return Put.DISK_FULL
        beside = self.unfinished / secrets.token_hex(16)
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(mode=0o2750, exist_ok=True)
            beside.replace(target)
            _sync(target.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            return Put.DISK_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else Put.NOT_WRITTEN
        return Put.STORED


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
