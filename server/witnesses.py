"""The coordinator as witness: a hospital's ledger must grow out of the one seen before; contradictions are kept."""

import bisect
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import files
from common.errors import BadEnvelope, LedgerRewritten, RecordDamaged
from common.ledger import merkle, note, witness
from common.ledger.note import Checkpoint
from common.roster import Roster

LINES_MOST: Final = 50_000  # of the file at start: then it is written anew
CHECKPOINTS_KEPT: Final = 1000  # of each hospital, the newest; what is older is in them, as each grew out of it
LINKS_MOST: Final = 64  # runs whose last checkpoints are passed on, so that a hospital that was away can catch up
NAME: Final = "witnessed.jsonl"


class Witnesses:
    """What every hospital's ledger was seen to be, in a file beside the runs: a line per checkpoint, signed by the hospital.

    A line is on disk with the next synced event of the journal at the latest: what a power cut takes, the journal still has.
    """

    def __init__(self, path: Path, *, roster: Roster, key: Ed25519PrivateKey, clock: Callable[[], float] = time.time) -> None:
        """Read what was seen before; lines of ledgers with other keys than the roster's are left where they are."""
        self._path, self._roster, self._key, self._clock = path, roster, key, clock
        self._roots: defaultdict[str, dict[int, bytes]] = defaultdict(dict)  # hospital -> size -> root
        self._sizes: defaultdict[str, list[int]] = defaultdict(list)  # the same sizes, sorted
        self._last: dict[str, tuple[Checkpoint, bytes]] = {}
        self._passed: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)  # hospital -> links from run to run
        self._keys = {name: note.parse_key(roster.member(name).ledger_key) for name in roster.names}
        data = files.read(path) if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        if len(data) > whole:  # what a power cut or a full disk left: the next line is one of its own
            os.truncate(path, whole)
        lines = data[:whole].splitlines(keepends=True)
        notes: defaultdict[str, dict[int, bytes]] = defaultdict(dict)  # hospital -> size -> line of the file
        foreign = [line for line in lines if not self._remember(line, notes)]
        if len(lines) > LINES_MOST:
            self._compact(foreign, notes)

    def seen(self, names: Iterable[str]) -> dict[str, str]:
        """Return the newest checkpoint of each of these hospitals that was seen, as it signed it."""
        return {name: self._last[name][1].decode() for name in names if name in self._last}

    def resume(self, events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Take what the file may have lost from a run's journal; return what the run's set-up shows each hospital."""
        begun: dict[str, str] | None = None
        for event in events:
            shown = event.get("witnessed", {}) if event["type"] in {"start", "invited", "announced"} else {}
            for name, text in shown.items():
                if name in self._keys and witness.signed_by(text.encode(), key=self._keys[name]):
                    self._see(name, witness.checkpoint(text.encode(), key=self._keys[name]), text.encode())
            if event["type"] == "start":
                begun = dict(shown)
        return self.seen(self._keys) if begun is None else begun

    def passed(self, name: str) -> str | None:
        """Return the checkpoint of a hospital that was last passed on to the others."""
        return self._passed[name][-1]["note"] if self._passed[name] else None

    def take(self, name: str, plain: object, *, late: bool = False) -> None:
        """Check what a hospital says of its ledger beside an answer, and remember it.

        `late`: an answer of an earlier life is asked for again, so that its checkpoint may be older than the newest seen.
        Raises BadEnvelope when it says nothing or lacks the proof (that convicts nobody), RecordDamaged when another key signed
        it, LedgerRewritten when it contradicts what it signed before: both checkpoints are then in a file of evidence beside
        this one.
        """
        told = witness.told(plain)
        new = witness.checkpoint(told.checkpoint, key=self._keys[name])
        signed = witness.own(told.checkpoint, key=self._keys[name])
        roots, sizes = self._roots[name], self._sizes[name]
        if new.size in roots or not roots:
            grown = roots.get(new.size, new.root) == new.root
        else:
            older = bisect.bisect_left(sizes, new.size)
            base = sizes[older - 1] if older else 0
            if new.size < sizes[-1] and not late:
                base = sizes[-1]
            old = Checkpoint(origin=new.origin, size=base, root=roots.get(base, merkle.EMPTY))
            proof = told.proofs.get(base) if base else ()  # everything grows out of nothing
            if proof is None and base < new.size:
                raise BadEnvelope(
                    f"The ledger of {name} comes without a proof that it grew out of its first {base} entries.",
                    action="Check the hospital's version; a hospital that gives none takes no part.",
                )
            grown = _grown(old, new, proof)
        if not grown:
            self._convict(name, signed)
        self._see(name, new, signed)

    def cosign(self, ends: Mapping[str, object]) -> dict[str, list[dict[str, Any]]]:
        """Cosign the checkpoints with which a run ends; return each hospital's links from run to run, for the others.

        A link: the note, the size that it grew out of, and the proof. A hospital that the checks refuse has no new link: one
        that did not hold would be refused by all others, at the end of every run to come.
        """
        for name, plain in ends.items():
            told, before, key = witness.told(plain), self.passed(name), self._keys[name]
            new = witness.checkpoint(told.checkpoint, key=key)
            empty = Checkpoint(origin=new.origin, size=0, root=merkle.EMPTY)
            old = witness.checkpoint(before.encode(), key=key) if before else empty
            proof = told.proofs.get(old.size) if before else ()
            if new.size == old.size or not _grown(old, new, proof):
                continue  # it did not grow, or an earlier life of this coordinator passed it on, or it does not follow
            signed = witness.own(told.checkpoint, key=key)
            line = witness.cosign(signed, name=self._roster.coordinator, key=self._key, now=int(self._clock()))
            link = {
                "note": witness.cosigned(signed, lines=[line]).decode(),
                "from": old.size,
                "path": [item.hex() for item in proof or ()],
            }
            self._passed[name].append(link)
            self._write(name, synced=True, **link)
        return {name: self._shown(name) for name, links in self._passed.items() if links and name in self._keys}

    def recall(self, by: str, held: object) -> None:
        """Take up what a hospital saw of others and this coordinator, restored from a backup, does not know it passed on.

        The links go on from there: a hospital that is asked for a proof from there at the next end gives it, or is convicted.
        """
        for name, text in held.items() if isinstance(held, dict) else ():
            if name not in self._keys or name == by or not isinstance(text, str):
                continue
            key, before = self._keys[name], self.passed(name)
            try:
                signed = witness.own(text.encode(), key=key)
                seen = witness.checkpoint(signed, key=key)
            except (RecordDamaged, UnicodeEncodeError):
                continue  # of a key that the hospital had before it enrolled anew
            end = witness.checkpoint(before.encode(), key=key).size if before else 0
            if seen.size <= end or self._roots[name].get(seen.size, seen.root) != seen.root:
                continue
            self._see(name, seen, signed)
            link = {"note": signed.decode(), "from": seen.size, "path": []}
            self._passed[name].append(link)
            self._write(name, synced=True, **link)

    def cosigned(self, by: str, lines: object) -> None:
        """Add a hospital's cosignatures to the checkpoints that were passed on; raises BadEnvelope when they are none."""
        if not isinstance(lines, dict) or not all(isinstance(text, str) and len(text) < 1024 for text in lines.values()):
            raise BadEnvelope("A hospital's cosignatures are malformed.", action="Check its version.")
        for name, line in lines.items():
            before = self.passed(name) if name in self._keys and name != by else None
            if before is None:
                raise BadEnvelope("A hospital cosigned what it was not shown.", action="Check its version.")
            if not self._holds(by, line, name):
                raise BadEnvelope("A hospital's cosignature does not hold.", action="Check its version.")
            if by in witness.witnesses(before.encode(), roster=self._roster, hospital=name):
                continue  # once is enough, and a note has so many lines only
            self._passed[name][-1]["note"] = witness.cosigned(before.encode(), lines=[line]).decode()
            self._write(name, **self._passed[name][-1])

    def _holds(self, by: str, line: str, name: str) -> bool:
        """Tell whether `line` is a cosignature of `by`, and nothing beside it, on what was last passed on of a hospital."""
        alone = witness.own(self._passed[name][-1]["note"].encode(), key=self._keys[name])
        with_it = witness.cosigned(alone, lines=[line])
        try:
            one_more = len(note.split(with_it)[1]) == len(note.split(alone)[1]) + 1 and line.count("\n") == 1
            return one_more and by in witness.witnesses(with_it, roster=self._roster, hospital=name)
        except (RecordDamaged, UnsupportedAlgorithm):
            return False

    def _shown(self, name: str) -> list[dict[str, Any]]:
        """Return a hospital's links for the others; cosignatures on those that were followed already stay here."""
        links = self._passed[name][-LINKS_MOST:]
        shorter = [{**link, "note": witness.own(link["note"].encode(), key=self._keys[name]).decode()} for link in links[:-1]]
        return [*shorter, dict(links[-1])]

    def _add(self, name: str, seen: Checkpoint) -> bool:
        """Keep a root; return whether its size is new."""
        if seen.size in self._roots[name]:
            return False
        self._roots[name][seen.size] = seen.root
        bisect.insort(self._sizes[name], seen.size)
        return True

    def _see(self, name: str, seen: Checkpoint, signed: bytes) -> None:
        if self._add(name, seen):
            self._write(name, note=signed.decode())
        if name not in self._last or seen.size > self._last[name][0].size:
            self._last[name] = (seen, signed)

    def _convict(self, name: str, signed: bytes) -> None:
        held = self._last[name][1]
        path = self._path.with_name(f"evidence-{name}-{int(self._clock())}.jsonl")
        lines = [json.dumps({"hospital": name, "note": text.decode()}).encode() + b"\n" for text in (held, signed)]
        files.write(path, b"".join(lines))
        raise LedgerRewritten(
            f"The ledger of {name} is not the one that it signed before.",
            action=f"Give {path.name} and the hospital's bundle to `motet-audit verify --witnessed`.",
        )

    def _write(self, name: str, *, synced: bool = False, **fields: object) -> None:
        with self._path.open("ab") as file:
            file.write(_line(name, **fields))
            if synced:  # of a link no journal knows
                file.flush()
                os.fsync(file.fileno())

    def _compact(self, foreign: list[bytes], notes: Mapping[str, Mapping[int, bytes]]) -> None:
        """Write the file anew: foreign lines as they are, of each hospital its newest checkpoints and its links."""
        kept = [*foreign]
        for name, lines in notes.items():
            kept += [lines[size] for size in sorted(lines)[-CHECKPOINTS_KEPT:]]
            self._passed[name] = self._passed[name][-LINKS_MOST:]
            kept += [_line(name, **link) for link in self._passed[name]]
        files.write(self._path, b"".join(kept))

    def _remember(self, line: bytes, notes: Mapping[str, dict[int, bytes]]) -> bool:
        """Take a line of the file in, and into `notes` where it is no link; return whether its ledger is one of this roster."""
        try:
            plain = json.loads(line)
            name, signed = plain["hospital"], plain["note"].encode()
            read = note.parse_checkpoint(note.split(signed)[0])
        except (ValueError, KeyError, TypeError, AttributeError, RecordDamaged):
            return False  # one that was damaged
        key = self._keys.get(name)
        if key is None or key.name != read.origin or not witness.signed_by(signed, key=key):
            return False
        self._add(name, read)
        if name not in self._last or read.size > self._last[name][0].size:
            self._last[name] = (read, witness.own(signed, key=key))
        if "path" in plain:
            links = self._passed[name]
            if (
                links
                and links[-1]["from"] == plain["from"]
                and links[-1]["note"].split("\n\n")[0] == plain["note"].split("\n\n")[0]
            ):
                links.pop()  # the same, with more cosignatures
            links.append({key: plain[key] for key in ("note", "from", "path")})
        else:
            notes[name][read.size] = line
        return True


def _line(name: str, **fields: object) -> bytes:
    return json.dumps({"hospital": name, **fields}, sort_keys=True).encode() + b"\n"


def _grown(old: Checkpoint, new: Checkpoint, proof: tuple[bytes, ...] | None) -> bool:
    try:
        witness.check_grown(old, new, proof=proof)
    except LedgerRewritten:
        return False
    return True
