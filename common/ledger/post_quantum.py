"""The second signature of a checkpoint, ML-DSA-44: it holds where a quantum computer has broken the first, Ed25519.

A line of type 0x06 beside that of type 0x01, which tools without it skip. Its key follows from the seed of the ledger's Ed25519
key: one file to keep, and who computes the Ed25519 secret from its public key learns a hash of the seed, never the seed.
Source: C2SP tlog-cosignature (cosigned_message, here the log's own statement), FIPS 204.
"""

import struct
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from common.crypto import keys
from common.errors import RecordDamaged
from common.ledger import note
from common.ledger.note import Checkpoint, Key

KIND: Final = 6  # signature type of C2SP signed-note
PUBLIC_BYTES: Final = 1312
TIME_BYTES: Final = 8
TIME_MOST: Final = 2**63 - 1
DERIVATION: Final = b"motet/ledger-ml-dsa-44/v1"
LABEL: Final = b"subtree/v1\n\0"


def key_of(name: str, *, key: Ed25519PrivateKey) -> Key:
    """Return the ML-DSA-44 verification key that belongs to a ledger's Ed25519 key, under the ledger's name."""
    return Key(name=name, kind=KIND, public=_private(key).public_key().public_bytes_raw())


def line(checkpoint: Checkpoint, *, key: Ed25519PrivateKey, now: int) -> str:
    """Return the ledger's ML-DSA-44 signature line on its checkpoint; another one each time, as the scheme is randomised."""
    private, public = _private(key), key_of(checkpoint.origin, key=key)
    return note.line(public, struct.pack(">Q", now) + private.sign(_message(checkpoint, name=checkpoint.origin, now=now)))


def verify(signed: bytes, *, key: Key) -> None:
    """Check that a checkpoint has exactly one line of this key, and that it holds; raises RecordDamaged."""
    if key.kind != KIND or len(key.public) != PUBLIC_BYTES:
        raise _damaged("The ledger's second key is not one of ML-DSA-44.")
    text, lines = note.split(signed)
    checkpoint = note.parse_checkpoint(text)
    found = [raw[4:] for name, raw in lines if (name, raw[:4]) == (key.name, key.id)]
    if len(found) != 1:
        raise _damaged("The checkpoint lacks the ML-DSA-44 signature of its ledger.")
    try:
        (now,) = struct.unpack(">Q", found[0][:TIME_BYTES])
        if now > TIME_MOST:
            raise ValueError("beyond the format")
        public = MLDSA44PublicKey.from_public_bytes(key.public)
        public.verify(found[0][TIME_BYTES:], _message(checkpoint, name=key.name, now=now))
    except (InvalidSignature, ValueError, struct.error):
        raise _damaged("The ML-DSA-44 signature of a checkpoint does not hold.") from None


def _private(key: Ed25519PrivateKey) -> MLDSA44PrivateKey:
    return MLDSA44PrivateKey.from_seed_bytes(keys.expand(key.private_bytes_raw(), DERIVATION))


def _message(checkpoint: Checkpoint, *, name: str, now: int) -> bytes:
    """Return the cosigned_message of the whole tree; ValueError where a name is longer than the format holds."""
    named, origin = name.encode(), checkpoint.origin.encode()
    if not (1 <= len(named) <= 255 and 1 <= len(origin) <= 255):
        raise ValueError("a name is too long")
    parts = (LABEL, bytes([len(named)]), named, struct.pack(">Q", now), bytes([len(origin)]), origin)
    return b"".join(parts) + struct.pack(">QQ", 0, checkpoint.size) + checkpoint.root


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Do not trust this record; ask the hospital for the original.")
