"""Reconcile: what hospitals' ledgers say left, against what the coordinator kept of its runs, both ways."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common import wire
from common.audit.bundle import Bundle
from common.errors import BadEnvelope, ConfigError, RecordDamaged, UndeclaredEgress
from common.ledger import events
from common.ledger.events import Kind
from common.roster import Roster

JOURNAL_BYTES_MOST: Final = 1 << 28
PIECE_BYTES: Final = 1 << 20
ACTION: Final = "Ask the coordinator for the whole folder again, and the hospital for its newest bundle."


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One hospital in one run: rounds on both sides, rounds that left and never came, and why that is no contradiction."""

    run: str
    hospital: str
    agreed: int
    lost: tuple[int, ...]  # in the ledger; the coordinator says that these rounds did not have this hospital's answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a ledger says left in one round."""

    round: int
    sha256: str


def reconcile(bundles: Mapping[str, Bundle], *, folders: Sequence[Path], roster: Roster) -> Iterator[Compared]:
    """Yield what agrees, per run and hospital. `bundles` are verified ones, by hospital; `folders` are runs' folders.

    Every kept, signed upload must be in its hospital's ledger with the same SHA-256 (UndeclaredEgress where it is not), and
    every release of a run in a ledger must have been received, or be of a round that the journal calls void without it
    (RecordDamaged where it is neither). Raises ConfigError when a folder is no run's.
    """
    releases = {name: _releases(bundle) for name, bundle in bundles.items()}
    for folder in folders:
        told = _journal(folder)
        run = _run(told, folder)
        rounds = {event["round"]: event for event in told if event.get("type") == "round" and type(event.get("round")) is int}
        for name in sorted(bundles):
            declared = {one.round: one.sha256 for one in releases[name].get(run, [])}
            received = dict(_received(folder, name=name, run=run, roster=roster))
            if declared or received:
                yield _compared(run, name, declared, received, rounds)


def runs(bundle: Bundle) -> frozenset[str]:
    """Return the runs in which a ledger says that something left."""
    return frozenset(_releases(bundle))


def _compared(
    run: str, name: str, declared: Mapping[int, str], received: Mapping[int, str], rounds: Mapping[int, Mapping[str, Any]]
) -> Compared:
    for number, digest in sorted(received.items()):
        if declared.get(number) != digest:
            what = "other bytes than its ledger declares" if number in declared else "what its ledger does not declare"
            raise UndeclaredEgress(
                f"{name} sent {what}: run {run}, round {number}, SHA-256 {digest}.",
                action="The upload is signed by the hospital: ask how it left. A bundle older than the run explains it, too.",
            )
    lost = sorted(set(declared) - set(received))
    for number in lost:
        event = rounds.get(number)
        if event is None:  # announced, and neither opened nor void: as a killed coordinator leaves the last one
            if number <= max(rounds, default=0):
                raise RecordDamaged(f"Run {run}: the journal lacks round {number}, in which {name} sent.", action=ACTION)
        elif name in _uploaded(event, run=run):
            raise RecordDamaged(f"Run {run}, round {number}: the upload of {name} came and is not kept.", action=ACTION)
    return Compared(run=run, hospital=name, agreed=len(received), lost=tuple(lost))


def _uploaded(event: Mapping[str, Any], *, run: str) -> list[object]:
    uploaded = event.get("uploaded", [])
    if not isinstance(uploaded, list):
        raise RecordDamaged(f"Run {run}: the journal of round {event['round']} is damaged.", action=ACTION)
    return uploaded


def _releases(bundle: Bundle) -> dict[str, list[Release]]:
    found: dict[str, list[Release]] = {}
    for line in bundle.entries:
        event = events.decode(line)
        if event.kind == Kind.RELEASE:
            run, number, *_ = (*str(event.fields["id"]).rsplit("/", 2), "", "")
            if number.isascii() and number.isdigit():
                found.setdefault(run, []).append(Release(round=int(number), sha256=event.fields["sha256"]))
    return found


def _received(folder: Path, *, name: str, run: str, roster: Roster) -> Iterator[tuple[int, str]]:
    """Yield round and SHA-256 of each upload of a hospital that is kept, once its signature holds."""
    for path in sorted((folder / "rounds").glob(f"*/{name}.envelope")):
        if not (path.parent.name.isascii() and path.parent.name.isdigit()):
            continue  # of set-up, or the close: keys and checkpoints, no data
        incoming = wire.Incoming(key=roster.identity(name), sender=name, recipient=roster.coordinator, begin=_nowhere)
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                    incoming.take(piece)
            head = incoming.end()
        except (BadEnvelope, OSError):
            raise RecordDamaged(f"Run {run}: a kept upload of {name} is damaged.", action=ACTION) from None
        if head.run != run or head.body.get("round") != int(path.parent.name):
            raise RecordDamaged(f"Run {run}: a kept upload of {name} is of another run or round.", action=ACTION)
        yield int(path.parent.name), digest.hexdigest()


def _nowhere(_head: wire.Envelope, _size: int) -> Any:  # noqa: ANN401
    return lambda _piece: None


def _journal(folder: Path) -> list[dict[str, Any]]:
    path = folder / "journal.jsonl"
    try:
        if path.stat().st_size > JOURNAL_BYTES_MOST:
            raise RecordDamaged("A run's journal is too large.", action=ACTION)
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        raise ConfigError(f"{folder} is not a run's folder.", action="Give the folder of one run, as kept.") from None
    try:
        told = [json.loads(line) for line in lines]
        if not all(isinstance(event, dict) for event in told):
            raise TypeError("not objects")
    except (ValueError, TypeError, RecursionError):
        raise RecordDamaged("A run's journal is damaged.", action=ACTION) from None
    return told


def _run(told: Sequence[Mapping[str, Any]], folder: Path) -> str:
    names = [event.get("run") for event in told if event.get("type") == "start"]
    if len(names) != 1 or not isinstance(names[0], str):
        raise RecordDamaged(f"The journal of {folder.name} does not say which run it is of.", action=ACTION)
    return names[0]
