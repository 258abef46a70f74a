"""Files that are whole or absent: written beside, synced, then renamed; private ones are 0600 from the first byte."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from common.errors import AlreadyExists, ConfigError


def write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace `path` by `data` in one step, synced to disk before it returns."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_new(path: Path, data: bytes, *, private: bool = False) -> None:
    """Create `path` with `data`; raises AlreadyExists and changes nothing when it is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    except FileExistsError:
        raise AlreadyExists(f"{path} exists already.", action="Choose another folder, or move it away.") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def read(path: Path) -> bytes:
    """Return what a file that the user named holds; raises ConfigError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", action="Check the path.") from None


def refuse_remains(folder: Path, *, names: Sequence[str]) -> None:
    """Raise AlreadyExists when `folder` holds any of `names`, so that nothing is made on top of something else."""
    for name in names:
        if (folder / name).exists():
            raise AlreadyExists(f"{folder / name} exists already.", action="Choose another folder, or move it away.")


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
