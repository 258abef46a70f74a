"""Witnesses: who saw a checkpoint signs it too, so that a ledger rewritten later contradicts its own hospital's signature."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import BadEnvelope, LedgerRewritten, RecordDamaged
from common.ledger import merkle, note
from common.ledger.note import Checkpoint, Key
from common.roster import Roster

COSIGNATURE: Final = 4  # signature type of C2SP tlog-cosignature v1
PROOFS_MOST: Final = 4  # in one reply
PATH_MOST: Final = 64  # hashes in one proof
TIME_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a hospital says of its ledger beside an answer: a signed checkpoint, and proofs that it grew out of older ones."""

    checkpoint: bytes
    proofs: Mapping[int, tuple[bytes, ...]]  # by the older size

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        proofs = [{"from": size, "path": [item.hex() for item in path]} for size, path in sorted(self.proofs.items())]
        return {"checkpoint": self.checkpoint.decode(), "proofs": proofs}


def told(plain: object) -> Told:
    """Read what a hospital said of its ledger; raises BadEnvelope when it is missing or malformed. Nothing is verified."""
    try:
        if not isinstance(plain, dict) or plain.keys() != {"checkpoint", "proofs"} or len(plain["proofs"]) > PROOFS_MOST:
            raise TypeError("not what a hospital says")
        proofs = {_size(item["from"]): path(item["path"]) for item in plain["proofs"]}
        return Told(checkpoint=plain["checkpoint"].encode(), proofs=proofs)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise BadEnvelope("A reply does not say how its ledger stands.", action="Check the hospital's version.") from None


def path(plain: object) -> tuple[bytes, ...]:
    """Read a proof's hashes, hexadecimal; raises TypeError or ValueError."""
    if not isinstance(plain, list) or len(plain) > PATH_MOST:
        raise TypeError("not a proof")
    return tuple(bytes.fromhex(item) for item in plain)


def checkpoint(signed: bytes, *, key: Key) -> Checkpoint:
    """Return the checkpoint that the ledger's own key signed; raises RecordDamaged."""
    read = note.parse_checkpoint(note.verify(signed, keys=[key]))
    if read.origin != key.name:
        raise RecordDamaged("A checkpoint is for another ledger.", action="Ask the hospital.")
    return read


def signed_by(signed: bytes, *, key: Key) -> bool:
    """Tell whether a note has a line of this key; whether it holds, `checkpoint` says. Raises RecordDamaged on no note."""
    return any((name, raw[:4]) == (key.name, key.id) for name, raw in note.split(signed)[1])


def check_grown(old: Checkpoint, new: Checkpoint, *, proof: Sequence[bytes] | None) -> None:
    """Raise LedgerRewritten unless `proof` shows that `new` grew out of `old` by appending."""
    try:
        if proof is None:
            raise RecordDamaged("No proof was given.", action="Ask the hospital.")
        merkle.verify_consistency(old_size=old.size, size=new.size, old_root=old.root, root_hash=new.root, proof=proof)
    except RecordDamaged:
        raise LedgerRewritten(
            f"The ledger {new.origin} of {new.size} entries did not grow out of the one of {old.size} that it signed before.",
            action="Keep both checkpoints: with the hospital's bundle they show which entries were rewritten.",
        ) from None


def cosign(signed: bytes, *, name: str, key: Ed25519PrivateKey, now: int) -> str:
    """Return the witness's signature line for a checkpoint that it found to be consistent with all it saw before."""
    text, _ = note.split(signed)
    public = Key(name=name, kind=COSIGNATURE, public=key.public_key().public_bytes_raw())
    return note.line(public, struct.pack(">Q", now) + key.sign(_signed(text, now)))


def cosigned(signed: bytes, *, lines: Sequence[str]) -> bytes:
    """Return the note with signature lines added; one that it has already is not added again."""
    return signed + "".join(line for line in lines if line.encode() not in signed).encode()


def own(signed: bytes, *, key: Key) -> bytes:
    """Return the note with the first line of its own ledger alone."""
    text, lines = note.split(signed)
    kept = [raw for name, raw in lines if (name, raw[:4]) == (key.name, key.id)]
    return f"{text}\n{''.join(note.line(key, raw[4:]) for raw in kept[:1])}".encode()


def witnesses(signed: bytes, *, roster: Roster, hospital: str) -> dict[str, int]:
    """Return who of the roster cosigned a note, and when (seconds since 1970); the hospital itself does not count.

    Raises RecordDamaged where a line in the name of one of them does not hold; lines of strangers are skipped.
    """
    text, lines = note.split(signed)
    names = [name for name in (roster.coordinator, *roster.names) if name != hospital]
    known = {name: Key(name=name, kind=COSIGNATURE, public=roster.identity(name).public_bytes_raw()) for name in names}
    found = {}
    for name, raw in lines:
        key = known.get(name)
        if key is None or raw[:4] != key.id:
            continue
        try:
            (now,) = struct.unpack(">Q", raw[4 : 4 + TIME_BYTES])
            Ed25519PublicKey.from_public_bytes(key.public).verify(raw[4 + TIME_BYTES :], _signed(text, now))
        except (InvalidSignature, ValueError, struct.error):
            raise RecordDamaged(
                f"The cosignature of {name} does not hold.", action="Ask the coordinator for it again."
            ) from None
        found[name] = int(now)
    return found


def _signed(text: str, now: int) -> bytes:
    return f"cosignature/v1\ntime {now}\n{text}".encode()


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value < 10**note.SIZE_DIGITS_MOST:
        raise ValueError("not a size")
    return value
