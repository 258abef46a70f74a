"""The envelope: one signed head and one blob. The only thing that crosses the wall; what carries it is not trusted."""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common import canonical
from common.errors import BadEnvelope, SecondUpload

MAGIC: Final = b"MOTET\x01"
DOMAIN: Final = b"motet/envelope/v1\0"
START: Final = len(MAGIC) + 4  # bytes that tell how long the head is
HEAD_BYTES_MOST: Final = 1 << 25  # the sealed keys of 64 hospitals for one another, as hexadecimal twice: 4430 n (n - 1) bytes
REPLY_HEAD_BYTES_MOST: Final = 1 << 20  # of a hospital's reply: nobody's memory is filled before a signature was checked
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A signed envelope in two parts, so that envelopes to many hospitals share one blob."""

    front: bytes
    blob: bytes

    def __len__(self) -> int:
        """Return the envelope's length in bytes."""
        return len(self.front) + len(self.blob)

    def whole(self) -> bytes:
        """Return the whole envelope."""
        return self.front + self.blob

    def piece(self, start: int, *, size: int) -> bytes:
        """Return up to `size` bytes from `start`."""
        at = len(self.front)
        if start >= at:
            return self.blob[start - at : start - at + size]
        return self.front[start : start + size] + self.blob[: max(0, start + size - at)]


def seal(envelope: Envelope, *, key: Ed25519PrivateKey) -> bytes:
    """Return the signed bytes of `envelope`; raises ValueError for an unknown kind or an oversized part."""
    return seal_parts(envelope, key=key, blob_sha256=hashlib.sha256(envelope.blob).hexdigest()).whole()


def seal_parts(envelope: Envelope, *, key: Ed25519PrivateKey, blob_sha256: str) -> Sealed:
    """Sign `envelope` without copying its blob, whose SHA-256 the caller knows; raises ValueError as `seal` does."""
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
            "blob_sha256": blob_sha256,
        }
    )
    if len(head) > HEAD_BYTES_MOST or len(envelope.blob) > BLOB_BYTES_MOST:
        raise ValueError("envelope too large")
    return Sealed(front=MAGIC + struct.pack(">I", len(head)) + head + key.sign(DOMAIN + head), blob=envelope.blob)


def peek(data: bytes) -> Envelope:
    """Parse an envelope without checking its signature; raises BadEnvelope. For envelopes whose signature was checked."""
    head, _, blob = _split(data)
    return _parse(head, blob)


def open_envelope(data: bytes, *, key: Ed25519PublicKey, sender: str, recipient: str) -> Envelope:
    """Check an envelope's signature, parse it, check sender and recipient; raises BadEnvelope."""
    front = _front_bytes(data) or len(data)
    _check_head(data[:front], key=key, sender=sender, recipient=recipient)
    return peek(data)


Begin = Callable[[Envelope, int], Callable[[memoryview], None]]


class Incoming:
    """An envelope that arrives in pieces: its signed head is checked before any of its blob is passed on.

    `begin` gets the envelope without its blob, and the blob's length; it returns what takes the blob, piece by piece.
    Memory: the head and one piece.
    """

    def __init__(self, *, key: Ed25519PublicKey, sender: str, recipient: str, begin: Begin) -> None:
        """Expect one envelope from `sender`, signed by `key`."""
        self._key, self._sender, self._recipient, self._begin = key, sender, recipient, begin
        self._front = bytearray()
        self._head: _Head | None = None
        self._pass_on: Callable[[memoryview], None] = _nowhere
        self._hash, self._left, self._wrong = hashlib.sha256(), 0, False

    def take(self, data: bytes | memoryview) -> None:
        """Take the next bytes; raises BadEnvelope, SecondUpload for bytes after the end, and whatever `begin` raises.

        After an error nothing more is taken, and `end` raises too.
        """
        if self._wrong:
            raise BadEnvelope("An envelope was refused already.", action="Send it again.")
        self._wrong = True
        piece = memoryview(data)
        if self._head is None:
            piece = self._take_front(piece)
        if self._head is not None:
            if len(piece) > self._left:
                raise SecondUpload(f"{self._sender} sent more than it signed.", action="Void the round.")
            self._left -= len(piece)
            self._hash.update(piece)
            self._pass_on(piece)
        self._wrong = False

    def _take_front(self, piece: memoryview) -> memoryview:
        """Take what belongs to the front, and begin once it is whole; return the rest. Never copies a blob."""
        size = _front_bytes(self._front, most=REPLY_HEAD_BYTES_MOST)
        while len(piece) and (size is None or len(self._front) < size):
            wanted = (START if size is None else size) - len(self._front)
            self._front += piece[:wanted]
            piece = piece[wanted:]
            size = _front_bytes(self._front, most=REPLY_HEAD_BYTES_MOST)
        if size is not None and len(self._front) == size:
            self._head = _check_head(bytes(self._front), key=self._key, sender=self._sender, recipient=self._recipient)
            self._front.clear()
            self._left = self._head.blob_bytes
            self._pass_on = self._begin(self._head.envelope, self._head.blob_bytes)
        return piece

    @property
    def whole(self) -> bool:
        """Tell whether as many bytes came as the head announced."""
        return self._head is not None and self._left == 0 and not self._wrong

    def end(self) -> Envelope:
        """Return the envelope without its blob; raises BadEnvelope unless all of it came, as it was signed."""
        if self._head is None or not self.whole:
            raise BadEnvelope("An envelope is truncated.", action="Send it again.")
        if self._hash.hexdigest() != self._head.blob_sha256:
            raise BadEnvelope("An envelope's blob is not the one that was signed.", action="Send it again.")
        return self._head.envelope


def _nowhere(_piece: memoryview) -> None:
    """Take nothing: no head was checked yet."""


def whole_hash(data: bytes) -> str:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A parsed head: the envelope without its blob, and what it says of the blob."""

    envelope: Envelope
    blob_bytes: int
    blob_sha256: str


def _parse(head: bytes, blob: bytes) -> Envelope:
    parsed = _parse_head(head)
    if parsed.blob_bytes != len(blob) or parsed.blob_sha256 != hashlib.sha256(blob).hexdigest():
        raise BadEnvelope("An envelope's blob is not the one that was signed.", action="Send it again.")
    return replace(parsed.envelope, blob=blob)


def _parse_head(head: bytes) -> _Head:
    try:
        plain = canonical.decode(head)
        if set(plain) != {"kind", "sender", "recipient", "run", "body", "blob_bytes", "blob_sha256"}:
            raise ValueError("unknown keys")
        texts = [plain[key] for key in ("kind", "sender", "recipient", "run")]
        if not all(isinstance(text, str) and len(text) <= 128 for text in texts) or not isinstance(plain["body"], dict):
            raise ValueError("wrong types")
        if type(plain["blob_bytes"]) is not int or not 0 <= plain["blob_bytes"] <= BLOB_BYTES_MOST:
            raise ValueError("wrong size")
        envelope = Envelope(
            kind=plain["kind"],
            sender=plain["sender"],
            recipient=plain["recipient"],
            run=plain["run"],
            body=plain["body"],
        )
        if envelope.kind not in KINDS:
            raise ValueError("unknown kind")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadEnvelope("An envelope cannot be parsed.", action="Check that both sides run the same version.") from None
    return _Head(envelope=envelope, blob_bytes=plain["blob_bytes"], blob_sha256=str(plain["blob_sha256"]))


def _check_head(front: bytes, *, key: Ed25519PublicKey, sender: str, recipient: str) -> _Head:
    head, signature, _ = _split(front)
    try:
        key.verify(signature, DOMAIN + head)
    except InvalidSignature:
        raise BadEnvelope("An envelope's signature does not hold.", action="Check the roster.") from None
    parsed = _parse_head(head)
    if parsed.envelope.sender != sender or parsed.envelope.recipient != recipient:
        raise BadEnvelope("An envelope is from or for somebody else.", action="Check the roster.")
    return parsed


def _front_bytes(data: bytes | bytearray, *, most: int = HEAD_BYTES_MOST) -> int | None:
    """Return how long an envelope's front is, or None while its first bytes do not tell; raises BadEnvelope."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BadEnvelope("Not an envelope.", action="Check that both sides run the same version.")
    if len(data) < START:
        return None
    (size,) = struct.unpack(">I", data[len(MAGIC) : START])
    if size > most:
        raise BadEnvelope("An envelope is truncated or too large.", action="Send it again.")
    return START + int(size) + 64


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    end = _front_bytes(data)
    if end is None or len(data) < end or len(data) > end + BLOB_BYTES_MOST:
        raise BadEnvelope("An envelope is truncated or too large.", action="Send it again.")
    return data[len(MAGIC) + 4 : end - 64], data[end - 64 : end], data[end:]
