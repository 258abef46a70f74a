"""Signed notes and checkpoints in the C2SP format, so that any transparency-log tool can check a ledger."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import RecordDamaged

ED25519 = 1  # signature type of C2SP signed-note
NOTE_BYTES_MOST = 65_536
SIGNATURES_MOST = 64
SIZE_DIGITS_MOST = 15
DASH = "\N{EM DASH} "


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A verification key as a vkey string spells it."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """Return the 4-byte key id."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """Return the key as C2SP tools read it."""
        return f"{self.name}+{self.id.hex()}+{_base64(bytes([self.kind]) + self.public)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a ledger says it holds: its name, its number of entries, the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the body that is signed. Source: C2SP tlog-checkpoint v1.0.0."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


def key_of(name: str, *, key: Ed25519PrivateKey) -> Key:
    """Return the verification key of `key` under `name`; raises RecordDamaged on a name that the format cannot hold."""
    _check_name(name)
    return Key(name=name, kind=ED25519, public=key.public_key().public_bytes_raw())


def parse_key(text: str) -> Key:
    """Read a vkey string; raises RecordDamaged unless it is exactly what `vkey` would write."""
    parts = text.split("+", 2)
    raw = _unbase64(parts[2]) if len(parts) == 3 else b""
    if len(raw) < 2:
        raise _damaged("A verification key is malformed.")
    _check_name(parts[0])
    key = Key(name=parts[0], kind=raw[0], public=raw[1:])
    if key.vkey != text or (key.kind == ED25519 and len(key.public) != 32):
        raise _damaged("A verification key is malformed.")
    return key


def sign(text: str, *, name: str, key: Ed25519PrivateKey) -> bytes:
    """Return the note: `text` (which must end in a newline) and one Ed25519 signature line."""
    _check_text(text)
    public = key_of(name, key=key)
    return f"{text}\n{line(public, key.sign(text.encode()))}".encode()


def verify(note: bytes, *, keys: Sequence[Key]) -> str:
    """Return the text of a note that at least one of `keys` signed.

    Unknown keys are skipped; a known key whose signature fails refuses the whole note, as does a note that none of them signed.
    Raises RecordDamaged. Source: C2SP signed-note v1.0.0.
    """
    text, signatures = split(note)
    known = {(key.name, key.id): key for key in keys}
    held = 0
    for name, raw in signatures:
        key = known.get((name, raw[:4]))
        if key is None:
            continue
        if key.kind != ED25519:
            raise _damaged("A signed note is signed in a way that this program does not know.")
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(raw[4:], text.encode())
        except (InvalidSignature, ValueError):
            raise _damaged("The signature of a note does not hold.") from None
        held += 1
    if not held:
        raise _damaged("A note is not signed by the expected key.")
    return text


def split(note: bytes) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Return a note's text and its signature lines, each as name and key id with signature; nothing is verified."""
    if len(note) > NOTE_BYTES_MOST:
        raise _damaged("A signed note is too long.")
    try:
        content = note.decode()
    except UnicodeDecodeError:
        raise _damaged("A signed note is not UTF-8.") from None
    text, separator, lines = content.rpartition("\n\n")
    text += "\n"
    if not separator or not lines.endswith("\n"):
        raise _damaged("A signed note is malformed.")
    _check_text(text)
    signatures = lines.split("\n")[:-1]
    if not 1 <= len(signatures) <= SIGNATURES_MOST:
        raise _damaged("A signed note has no signature, or too many.")
    return text, tuple(map(_signature, signatures))


def line(key: Key, signature: bytes) -> str:
    """Return the signature line of `key`, with its newline."""
    return f"{DASH}{key.name} {_base64(key.id + signature)}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint body of three lines; raises RecordDamaged on anything else."""
    lines = text.split("\n")
    if len(lines) != 4 or not lines[0] or not (lines[1].isascii() and lines[1].isdigit()) or len(lines[1]) > SIZE_DIGITS_MOST:
        raise _damaged("A checkpoint is malformed.")
    checkpoint = Checkpoint(origin=lines[0], size=int(lines[1]), root=_unbase64(lines[2]))
    if checkpoint.text() != text or len(checkpoint.root) != 32:
        raise _damaged("A checkpoint is malformed.")
    return checkpoint


def _signature(line: str) -> tuple[str, bytes]:
    parts = line.removeprefix(DASH).split(" ")
    if not line.startswith(DASH) or len(parts) != 2:
        raise _damaged("A signature line is malformed.")
    raw = _unbase64(parts[1])
    if len(raw) < 5:
        raise _damaged("A signature line is malformed.")
    return parts[0], raw


def _check_name(name: str) -> None:
    if not name or len(name) > 255 or "+" in name or any(letter.isspace() or not letter.isprintable() for letter in name):
        raise _damaged("The name of a ledger must have 1 to 255 printable letters, no space and no plus sign.")


def _check_text(text: str) -> None:
    if not text.endswith("\n") or len(text) < 2 or any(ord(letter) < 32 and letter != "\n" for letter in text):
        raise _damaged("The text of a note holds control characters, or does not end in a newline.")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if _base64(data) != text:  # one spelling only: unused bits of the last letter must be zero
        raise _damaged("Something is not in base64.")
    return data


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Do not trust this record; ask the hospital for the original.")
