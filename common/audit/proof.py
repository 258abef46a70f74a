"""One entry with its proof: that it stands in the ledger that a checkpoint signs, without showing any other entry."""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from common.audit.bundle import Bundle
from common.errors import RecordDamaged
from common.ledger import events, merkle, witness
from common.ledger.events import Event
from common.ledger.note import Key

HEADER: Final = "c2sp.org/tlog-proof@v1"
BYTES_MOST: Final = 1 << 18
HASHES_MOST: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """An entry that is in the ledger of `origin`, of which its key signed `entries` entries."""

    origin: str
    entries: int
    event: Event


def prove(bundle: Bundle, *, seq: int) -> bytes:
    """Return the proof of entry `seq` as a C2SP tlog-proof, the entry itself in its `extra` line; IndexError outside.

    Nothing is verified here: `verify` does.
    """
    tree = merkle.Tree(merkle.leaf_hash(line) for line in bundle.entries)
    path = tree.inclusion_proof(seq, size=tree.size)
    hashes = "".join(f"{_base64(item)}\n" for item in path)
    text = f"{HEADER}\nextra {_base64(bundle.entries[seq])}\nindex {seq}\n{hashes}\n"
    return text.encode() + bundle.checkpoint


def verify(data: bytes, *, key: Key) -> Proven:
    """Check that the entry in a proof is in the ledger whose key this is; raises RecordDamaged."""
    if len(data) > BYTES_MOST:
        raise _damaged("The proof is too long.")
    head, _, signed = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
        if lines[0] != HEADER or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
            raise ValueError("not a proof")
        entry, index = _unbase64(lines[1][6:]), int(lines[2][6:])
        path = [_unbase64(line) for line in lines[3:]]
        if f"index {index}" != lines[2] or len(path) > HASHES_MOST:
            raise ValueError("not a proof")
    except (ValueError, IndexError):
        raise _damaged("The proof is malformed.") from None
    seen = witness.checkpoint(signed, key=key)
    merkle.verify_inclusion(leaf=merkle.leaf_hash(entry), index=index, size=seen.size, proof=path, root_hash=seen.root)
    event = events.decode(entry)
    if event.seq != index:
        raise _damaged("The entry has another number than its place.")
    return Proven(origin=seen.origin, entries=seen.size, event=event)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if _base64(data) != text:
        raise ValueError("not base64")
    return data


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Ask for the proof again, or make it from the bundle.")
