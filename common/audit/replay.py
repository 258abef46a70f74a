"""Replay: add a run's stored uploads again, bit for bit, from nothing but what the coordinator kept. It shows sums only.

A run's folder holds roster.json, journal.jsonl and rounds/: setup/<hospital>.envelope, and per round announcement.json and
<hospital>.envelope. Everything in it is untrusted until its signature holds.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import announcement as announcements
from common import canonical, roster, wire
from common.announcement import Announcement
from common.crypto import keys, ring
from common.crypto.adding import add
from common.errors import AnotherRoster, ConfigError, MotetError, RecordDamaged
from common.roster import Roster
from common.wire import Envelope

ENVELOPE_BYTES_MOST = wire.BLOB_BYTES_MOST + wire.HEAD_BYTES_MOST + 128
ACTION = "Ask the coordinator for the whole folder again, and the hospitals for what they sent."


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One round: opened again with this sum, or void because of `missing`."""

    round: int
    task: str
    hospitals: tuple[str, ...]
    missing: tuple[str, ...]
    sum_sha256: str | None


def replay(folder: Path, *, roster_hash: str | None) -> Iterator[Replayed]:
    """Yield every round of a run, added again from the signed uploads.

    Checks: (1) the roster's signature, and its hash where one is given, (2) every set-up bundle and the transcript that follows
    from them, (3) every upload's signature, context and commitments, (4) that the sum is the one in the journal, and that
    rounds which the journal calls void, and only those, do not open. Raises RecordDamaged that names the round.
    Raises ConfigError when the folder is no run's, AnotherRoster when it is of another roster than the one given.
    """
    if not any((folder / name).exists() for name in ("roster.json", "journal.jsonl", "rounds")):
        raise ConfigError(f"{folder} is not a run's folder.", action="Give the folder of one run, as the coordinator keeps it.")
    known = _roster(folder, roster_hash)  # (1)
    told = _journal(folder)
    run, transcript = _transcript(folder, known, told)  # (2)
    rounds = {event["round"]: event for event in told if event.get("type") == "round" and type(event.get("round")) is int}
    if not (folder / "rounds").is_dir():
        raise RecordDamaged("The run's folder lacks rounds/, where the uploads are kept.", action=ACTION)
    stored = sorted(int(path.name) for path in (folder / "rounds").iterdir() if path.name.isascii() and path.name.isdigit())
    ended = any(event.get("type") == "done" for event in told)
    under_way = [] if ended else [len(rounds) + 1]  # announced, and neither opened nor void: as a killed coordinator leaves it
    if stored not in (sorted(rounds), sorted(rounds) + under_way):
        raise RecordDamaged("The journal and the stored rounds do not name the same rounds.", action=ACTION)
    for number in sorted(rounds):
        yield _round(folder / "rounds" / f"{number:06d}", known, run, transcript, rounds[number])


def _round(place: Path, known: Roster, run: str, transcript: bytes, told: Mapping[str, Any]) -> Replayed:
    announced = _announcement(place, run, known)
    uploads = {
        name: _envelope(place / f"{name}.envelope", known, name=name, kind="upload", run=run)
        for name in announced.hospitals
        if (place / f"{name}.envelope").exists()
    }
    missing = tuple(name for name in announced.hospitals if name not in uploads)
    try:
        total = add(uploads, announcement=announced, transcript=transcript)  # (3)
        found: str | None = hashlib.sha256(ring.to_bytes(total)).hexdigest()
    except MotetError:
        found = None
    if found is None and told.get("sum_sha256") is not None and missing:
        whose = f"uploads of {', '.join(missing)} are" if len(missing) > 1 else f"upload of {missing[0]} is"
        raise RecordDamaged(f"Round {announced.round}: the {whose} missing.", action=ACTION)
    if found != told.get("sum_sha256") or announced.round != told.get("round"):  # (4)
        raise RecordDamaged(f"Round {announced.round}: the sum is not the one in the journal.", action=ACTION)
    return Replayed(
        round=announced.round, task=announced.task, hospitals=announced.hospitals, missing=missing, sum_sha256=found
    )


def _announcement(place: Path, run: str, known: Roster) -> Announcement:
    try:
        announced = announcements.parse(canonical.decode(_read(place / "announcement.json", most=1 << 20)))
    except (MotetError, ValueError):
        raise RecordDamaged(f"The announcement of round {place.name} is damaged.", action=ACTION) from None
    if announced.run != run or announced.roster != known.hash() or f"{announced.round:06d}" != place.name:
        raise RecordDamaged(f"The announcement of round {place.name} is of another run or round.", action=ACTION)
    return announced


def _roster(folder: Path, roster_hash: str | None) -> Roster:
    try:
        known = roster.parse(_read(folder / "roster.json", most=roster.BYTES_MOST))
    except MotetError:
        raise RecordDamaged("The run's roster is damaged.", action=ACTION) from None
    if roster_hash is not None and known.hash() != roster_hash:
        raise AnotherRoster("The run's roster is another one than yours.", action="Compare the hash with a hospital.")
    return known


def _journal(folder: Path) -> list[dict[str, Any]]:
    try:
        events = [json.loads(line) for line in _read(folder / "journal.jsonl", most=1 << 28).splitlines()]
        if not all(isinstance(event, dict) for event in events):
            raise ValueError("not objects")
    except (ValueError, RecursionError):
        raise RecordDamaged("The run's journal is damaged.", action=ACTION) from None
    return events


def _transcript(folder: Path, known: Roster, told: list[dict[str, Any]]) -> tuple[str, bytes]:
    runs = [event.get("run") for event in told if event.get("type") == "start"]
    if len(runs) != 1 or not isinstance(runs[0], str):
        raise RecordDamaged("The journal does not say which run it is of.", action=ACTION)
    run = runs[0]
    public = {}
    for path in sorted((folder / "rounds" / "setup").glob("*.envelope")):
        if path.stem not in known.names:
            raise RecordDamaged("A stranger took part in set-up.", action=ACTION)
        bundle = _envelope(path, known, name=path.stem, kind="bundle", run=run)
        try:
            public[path.stem] = bytes.fromhex(bundle.body["setup_key"])
        except (KeyError, ValueError, TypeError):
            raise RecordDamaged(f"The set-up of {path.stem} is damaged.", action=ACTION) from None
    return run, keys.transcript(public, roster_hash=known.hash(), run=run)


def _envelope(path: Path, known: Roster, *, name: str, kind: str, run: str) -> Envelope:
    try:
        envelope = wire.open_envelope(
            _read(path, most=ENVELOPE_BYTES_MOST), key=known.identity(name), sender=name, recipient=known.coordinator
        )
    except MotetError:
        raise RecordDamaged(f"What {name} sent ({path.parent.name}) is damaged.", action=ACTION) from None
    if envelope.kind != kind or envelope.run != run:
        raise RecordDamaged(f"What {name} sent ({path.parent.name}) is of another step or run.", action=ACTION)
    return envelope


def _read(path: Path, *, most: int) -> bytes:
    try:
        if path.stat().st_size > most:
            raise RecordDamaged(f"{path.name} is too large.", action=ACTION)
        return path.read_bytes()
    except OSError:
        raise RecordDamaged(f"{path.name} is missing or cannot be read.", action=ACTION) from None
