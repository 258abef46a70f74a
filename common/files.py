"""Files that are whole or absent: written beside, synced, then renamed; private ones are 0600 from the first byte."""

import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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


def write_together(contents: Mapping[Path, bytes], *, private: bool = False) -> None:
    """Replace files of one folder, each in one step and in the order given; all on disk before any is replaced.

    The disk syncs them side by side: it costs one wait instead of one per file. Raises ValueError for several folders.
    """
    (folder,) = {path.parent for path in contents}
    beside = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in contents}
    try:
        with ThreadPoolExecutor(len(contents)) as pool:
            for done in [pool.submit(_write_synced, beside[path], data, private=private) for path, data in contents.items()]:
                done.result()
        for path in contents:
            beside[path].replace(path)
    except BaseException:
        for path in beside.values():
            path.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def write_new(path: Path, data: bytes, *, private: bool = False) -> None:
    """Create `path` with `data`; raises AlreadyExists and changes nothing when it is there.

    A disk that does not take all of it leaves no file; a power cut may leave a part of it, which is no other file's loss.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    except FileExistsError:
        raise AlreadyExists(f"{path} exists already.", action="Choose another folder, or move it away.") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read(path: Path, *, most_bytes: int | None = None) -> bytes:
    """Return what a file that the user named holds; raises ConfigError when it cannot be read, or is longer than it may be."""
    try:
        with path.open("rb") as file:
            data = file.read() if most_bytes is None else file.read(most_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", action="Check the path.") from None
    if most_bytes is not None and len(data) > most_bytes:
        raise ConfigError(f"{path} is longer than {most_bytes} bytes.", action="Check that it is the right file.")
    return data


def refuse_remains(folder: Path, *, names: Sequence[str]) -> None:
    """Raise AlreadyExists when `folder` holds any of `names`, so that nothing is made on top of something else."""
    for name in names:
        if (folder / name).exists():
            raise AlreadyExists(f"{folder / name} exists already.", action="Choose another folder, or move it away.")


def _write_synced(path: Path, data: bytes, *, private: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
