"""The bundle: one zip with all that an auditor needs of one hospital, written one way only, read with strict limits."""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from common import canonical, files
from common.errors import ConfigError, RecordDamaged
from common.ledger import note

BUNDLE_BYTES_MOST = 256 << 20
STUDIES_MOST = 1000
LIMITS: Mapping[str, int] = {
    "entries.jsonl": 248 << 20,
    "checkpoint": note.NOTE_BYTES_MOST,
    "roster.json": 1 << 20,
    "hospital.json": 1 << 10,
}
OPTIONAL: Mapping[str, int] = {"witnessed": note.NOTE_BYTES_MOST}
STUDY_BYTES_MOST = 1 << 20
ENTRY_BYTES_LEAST = 40  # on the average of all lines; the shortest entry has more
STUDY_NAME = re.compile(r"studies/([0-9a-f]{64})\.json\Z")
HOSPITAL_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
MARKS = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")  # of a file, of its directory, of the end of a zip
STAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a hospital hands to an auditor; nothing in it is trusted yet."""

    entries: tuple[bytes, ...]  # lines without the newline
    checkpoint: bytes
    roster: bytes
    studies: Mapping[str, bytes]  # by hash
    hospital: str
    witnessed: bytes = b""  # the newest checkpoint that others cosigned, with their lines


def write(
    path: Path,
    *,
    entries: Iterable[bytes],
    checkpoint: bytes,
    roster: bytes,
    studies: Mapping[str, bytes],
    hospital: str,
    witnessed: bytes = b"",
) -> None:
    """Write the bundle whole or not at all; the same content gives the same bytes.

    Takes as many entries as the checkpoint covers, so that a ledger may grow meanwhile. Raises RecordDamaged when there are
    fewer, or when a part is larger than `read` takes, and ConfigError when the file cannot be written.
    """
    text = checkpoint.decode(errors="replace").split("\n")
    if len(text) < 3 or not (text[1].isascii() and text[1].isdigit()) or len(text[1]) > note.SIZE_DIGITS_MOST:
        raise _damaged("The checkpoint is malformed.")
    lines = tuple(islice(entries, int(text[1])))
    if len(lines) != int(text[1]):
        raise _damaged("The checkpoint covers more entries than there are.")
    bundle = Bundle(
        entries=lines, checkpoint=checkpoint, roster=roster, studies=studies, hospital=hospital, witnessed=witnessed
    )
    parts = _parts(bundle)
    for name, data in parts.items():
        if len(data) > _limit(name):
            raise _damaged(f"{name} is too large for a bundle.")
    data = _zip(parts)
    if len(data) > BUNDLE_BYTES_MOST:
        raise _damaged("The bundle is too large.")
    try:
        files.write(path, data, private=False)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).", action="Choose another place.") from None


def read(path: Path) -> Bundle:
    """Read a bundle; raises RecordDamaged unless it is byte for byte what `write` writes.

    Raises ConfigError when it cannot be opened, or when it is no file with any mark of a zip: then it is no bundle at all.
    Nothing is unpacked to disk, nothing is decompressed (the format stores), and the size is known before a byte is read.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe may never end
            raise _no_bundle(path)
        with path.open("rb") as file:
            data = file.read(BUNDLE_BYTES_MOST + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", action="Check the path.") from None
    if len(data) > BUNDLE_BYTES_MOST:
        raise _damaged("The bundle is too large.")
    if not any(mark in data for mark in MARKS):
        raise _no_bundle(path)
    return parse(data)


def parse(data: bytes) -> Bundle:
    """Read a bundle from bytes; raises RecordDamaged."""
    parts = _unzip(data)
    if _zip(parts) != data:  # one spelling only: no comment, no extra field, no hidden bytes between the files
        raise _damaged("The bundle is not written as Motet writes it.")
    if parts["entries.jsonl"].count(b"\n") * ENTRY_BYTES_LEAST > len(parts["entries.jsonl"]):
        raise _damaged("The bundle has lines that are too short for entries.")  # before they fill the memory
    lines = parts["entries.jsonl"].split(b"\n")
    if lines.pop() != b"":
        raise _damaged("The last entry is cut off.")
    return Bundle(
        entries=tuple(lines),
        checkpoint=parts["checkpoint"],
        roster=parts["roster.json"],
        studies={name[8:-5]: content for name, content in parts.items() if STUDY_NAME.match(name)},
        hospital=_hospital(parts["hospital.json"]),
        witnessed=parts.get("witnessed", b""),
    )


def _parts(bundle: Bundle) -> dict[str, bytes]:
    if not HOSPITAL_NAME.match(bundle.hospital) or not all(STUDY_NAME.match(f"studies/{name}.json") for name in bundle.studies):
        raise _damaged("The hospital's name or a study's hash is malformed.")
    return {
        "checkpoint": bundle.checkpoint,
        "entries.jsonl": b"".join(line + b"\n" for line in bundle.entries),
        "hospital.json": canonical.encode({"version": 1, "hospital": bundle.hospital}),
        "roster.json": bundle.roster,
        **({"witnessed": bundle.witnessed} if bundle.witnessed else {}),
        **{f"studies/{name}.json": content for name, content in sorted(bundle.studies.items())},
    }


def _zip(parts: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_STORED) as archive:
        for name, content in sorted(parts.items()):
            info = zipfile.ZipInfo(name, date_time=STAMP)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def _unzip(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if (
                len(infos) > STUDIES_MOST + len(LIMITS) + len(OPTIONAL)
                or len(set(names)) != len(names)
                or not LIMITS.keys() <= set(names)
            ):
                raise _damaged("The bundle lacks a file, or has one twice.")
            for info in infos:
                if info.file_size > _limit(info.filename) or info.compress_type != zipfile.ZIP_STORED:
                    raise _damaged("The bundle holds a file that is too large, or compressed.")
            if sum(info.file_size for info in infos) > len(data):
                raise _damaged("The bundle's files overlap.")
            return {info.filename: archive.read(info) for info in infos}
    except RecordDamaged:
        raise
    except Exception:  # noqa: BLE001  (zipfile raises some ten types on hostile bytes)
        raise _damaged("The bundle is not a whole zip file.") from None


def _limit(name: str) -> int:
    limit = STUDY_BYTES_MOST if STUDY_NAME.match(name) else {**LIMITS, **OPTIONAL}.get(name)
    if limit is None:
        raise _damaged("The bundle holds a file that does not belong there.")
    return limit


def _hospital(data: bytes) -> str:
    try:
        plain = canonical.decode(data)
        if plain.keys() == {"version", "hospital"} and plain["version"] == 1 and HOSPITAL_NAME.match(plain["hospital"]):
            return str(plain["hospital"])
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise _damaged("The bundle does not say whose it is.")


def _no_bundle(path: Path) -> ConfigError:
    return ConfigError(f"{path} is not a bundle.", action="Give the zip that `motet-hospital bundle` wrote.")


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Ask the hospital to export it again.")
