"""What others saw of a ledger, against its bundle: an entry rewritten afterwards contradicts the hospital's signature."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import ConfigError, LedgerRewritten, RecordDamaged, Unwitnessed
from common.ledger import merkle, witness
from common.ledger.note import Checkpoint, Key
from common.roster import Roster

FILE_BYTES_MOST: Final = 256 << 20
EXPORT_AGAIN: Final = "Ask the hospital to export it again."
CONVICTS: Final = "Keep this file and the bundle: together they are signed evidence against the hospital's ledger key."


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest checkpoint that anybody cosigned, and who did; 0 entries where nobody has."""

    entries: int = 0
    witnesses: tuple[str, ...] = ()


def read(paths: Sequence[Path]) -> dict[str, list[bytes]]:
    """Return the notes of witnesses' files by hospital, unverified: a coordinator's witnessed.jsonl, or evidence.

    Raises ConfigError when a file cannot be read, RecordDamaged when it is not of such lines; a cut last line is left out.
    """
    notes: dict[str, list[bytes]] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MOST + 1)
            if len(data) > FILE_BYTES_MOST:
                raise RecordDamaged(f"{path.name} is too large.", action="Give what the coordinator keeps beside its runs.")
            lines = data.split(b"\n")[:-1]
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}).", action="Check the path.") from None
        try:
            for line in lines:
                plain = json.loads(line)
                notes.setdefault(str(plain["hospital"]), []).append(plain["note"].encode())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RecordDamaged(
                f"{path.name} holds a line that is no checkpoint.", action="Give what the coordinator keeps beside its runs."
            ) from None
    return notes


def check(leaves: Sequence[bytes], *, notes: Iterable[bytes], key: Key, roster: Roster, hospital: str) -> Seen:
    """Hold a bundle's leaf hashes against every checkpoint that its ledger signed; return the newest cosigned one.

    Raises LedgerRewritten where the hospital signed two ledgers, RecordDamaged where a signature in its name does not hold,
    Unwitnessed where the bundle ends before what was seen. Notes of another ledger key are left out.
    """
    signed: dict[int, Checkpoint] = {}
    seen = Seen()
    for text in dict.fromkeys(notes):
        if not _of(text, key):
            continue
        try:
            one = witness.checkpoint(text, key=key)
        except RecordDamaged:
            raise RecordDamaged(
                f"A checkpoint that witnesses kept of {hospital} is not signed by it: its signature does not hold.",
                action="This says nothing against the hospital: ask who gave you the file of witnesses.",
            ) from None
        before = signed.setdefault(one.size, one)
        if before.root != one.root:
            raise LedgerRewritten(f"{hospital} signed two different ledgers of {one.size} entries.", action=CONVICTS)
        by = tuple(sorted(witness.witnesses(text, roster=roster, hospital=hospital)))
        if (one.size, len(by)) > (seen.entries, len(seen.witnesses)) and by:
            seen = Seen(entries=one.size, witnesses=by)
    _prefixes(leaves, signed, hospital)
    return seen


def _prefixes(leaves: Sequence[bytes], signed: Mapping[int, Checkpoint], hospital: str) -> None:
    if not signed:
        return
    tree, good = merkle.Tree(leaves), 0
    for size in sorted(signed):
        if size > len(leaves):
            raise Unwitnessed(
                f"The bundle of {hospital} has {len(leaves)} entries; its ledger was seen with {size}.", action=EXPORT_AGAIN
            )
        if tree.root(size=size) != signed[size].root:
            raise LedgerRewritten(
                f"{hospital}: of entries {good} to {size - 1} some were rewritten after the ledger was seen at {size}.",
                action=CONVICTS,
            )
        good = size


def _of(text: bytes, key: Key) -> bool:
    try:
        return witness.signed_by(text, key=key)
    except RecordDamaged:
        return False
