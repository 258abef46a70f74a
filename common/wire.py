"""The envelope: one signed head and one blob. The only thing that crosses the wall; what carries it is not trusted."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common import canonical
from common.errors import BadEnvelope

MAGIC: Final = b"MOTET\x01"
DOMAIN: Final = b"motet/envelope/v1\0"
HEAD_BYTES_MOST: Final = 1 << 20
BLOB_BYTES_MOST: Final = 1 << 30
KINDS: Final = frozenset(  # the closed set of what may travel
    {"invite", "bundle", "keys", "sealed", "announce", "upload", "close", "closed", "refusal"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An opened envelope. `body` is canonical JSON; `blob` is model bytes or a masked vector, and may be empty."""

    kind: str
    sender: str
    recipient: str
    run: str
    body: dict[str, Any]
    blob: bytes = b""


def seal(envelope: Envelope, *, key: Ed25519PrivateKey) -> bytes:
    """Return the signed bytes of `envelope`; raises ValueError for an unknown kind or an oversized part."""
    if envelope.kind not in KINDS:
        raise ValueError("unknown kind of envelope")
    head = canonical.encode(
        {
            "kind": envelope.kind,
            "sender": envelope.sender,
            "recipient": envelope.recipient,
            "run": envelope.run,
            "body": envelope.body,
            "blob_bytes": len(envelope.blob),
            "blob_sha256": hashlib.sha256(envelope.blob).hexdigest(),
        }
    )
    if len(head) > HEAD_BYTES_MOST or len(envelope.blob) > BLOB_BYTES_MOST:
        raise ValueError("envelope too large")
    return MAGIC + struct.pack(">I", len(head)) + head + key.sign(DOMAIN + head) + envelope.blob


def peek(data: bytes) -> Envelope:
    """Parse an envelope without checking its signature; raises BadEnvelope. For envelopes whose signature was checked."""
    head, _, blob = _split(data)
    return _parse(head, blob)


def open_envelope(data: bytes, *, key: Ed25519PublicKey, sender: str, recipient: str) -> Envelope:
    """Check an envelope's signature, parse it, check sender and recipient; raises BadEnvelope."""
    head, signature, blob = _split(data)
    try:
        key.verify(signature, DOMAIN + head)
    except InvalidSignature:
        raise BadEnvelope("An envelope's signature does not hold.", action="Check the roster.") from None
    envelope = _parse(head, blob)
    if envelope.sender != sender or envelope.recipient != recipient:
        raise BadEnvelope("An envelope is from or for somebody else.", action="Check the roster.")
    return envelope


def head_hash(data: bytes) -> str:
    """Return the SHA-256 of a whole envelope, as hex: what the ledger records of what left."""
    return hashlib.sha256(data).hexdigest()


def pack(parts: Sequence[bytes]) -> bytes:
    """Return several byte strings as one, each preceded by its length as four big-endian bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def unpack(data: bytes, *, count: int) -> tuple[bytes, ...]:
    """Undo `pack`; raises BadEnvelope unless there are exactly `count` parts."""
    parts: list[bytes] = []
    at = 0
    while at < len(data) and len(parts) <= count:
        if at + 4 > len(data):
            break
        (size,) = struct.unpack(">I", data[at : at + 4])
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data) or len(parts) != count:
        raise BadEnvelope("A blob does not hold the announced parts.", action="Check that both sides run the same version.")
    return tuple(parts)


def _parse(head: bytes, blob: bytes) -> Envelope:
    try:
        plain = canonical.decode(head)
        if set(plain) != {"kind", "sender", "recipient", "run", "body", "blob_bytes", "blob_sha256"}:
            raise ValueError("unknown keys")
        texts = [plain[key] for key in ("kind", "sender", "recipient", "run")]
        if not all(isinstance(text, str) and len(text) <= 128 for text in texts) or not isinstance(plain["body"], dict):
            raise ValueError("wrong types")
        envelope = Envelope(
            kind=plain["kind"],
            sender=plain["sender"],
            recipient=plain["recipient"],
            run=plain["run"],
            body=plain["body"],
            blob=blob,
        )
        if envelope.kind not in KINDS:
            raise ValueError("unknown kind")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadEnvelope("An envelope cannot be parsed.", action="Check that both sides run the same version.") from None
    if plain["blob_bytes"] != len(blob) or plain["blob_sha256"] != hashlib.sha256(blob).hexdigest():
        raise BadEnvelope("An envelope's blob is not the one that was signed.", action="Send it again.")
    return envelope


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    start = len(MAGIC) + 4
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise BadEnvelope("Not an envelope.", action="Check that both sides run the same version.")
    (size,) = struct.unpack(">I", data[len(MAGIC) : start])
    if size > HEAD_BYTES_MOST or len(data) < start + size + 64 or len(data) > start + size + 64 + BLOB_BYTES_MOST:
        raise BadEnvelope("An envelope is truncated or too large.", action="Send it again.")
    return data[start : start + size], data[start + size : start + size + 64], data[start + size + 64 :]
