"""Identities and pair keys: who a party is, and what two hospitals share that nobody else knows.

Set-up, numbered as in common/README.md: (1) each hospital signs a bundle with a fresh hybrid key, (2) each hospital seals a
fresh secret to every other, bound to the transcript of all bundles, (3) both secrets of a pair make its pair key.
Source: reference secure-sum.md 3; RFC 9180 (HPKE), with ML-KEM-768 + X25519.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Final, Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from common.crypto.rng import secret_bytes
from common.errors import BadEnvelope, ConfigError

SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
SECRET_BYTES: Final = 32


def length_prefixed_hash(*parts: bytes) -> bytes:
    """Return H(a, b, ...): SHA-256 over each part preceded by its length as four big-endian bytes."""
    return hashlib.sha256(b"".join(struct.pack(">I", len(part)) + part for part in parts)).digest()


def expand(key: bytes, *info: bytes, size: int = SECRET_BYTES) -> bytes:
    """Return HKDF-Expand(key, length-prefixed info, size), SHA-256."""
    prefixed = b"".join(struct.pack(">I", len(part)) + part for part in info)
    return HKDFExpand(hashes.SHA256(), size, prefixed).derive(key)


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return an unencrypted PKCS #8 PEM: for a file of mode 0600 and nothing else."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load_private_pem(data: bytes) -> Ed25519PrivateKey:
    """Read an Ed25519 private key; raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("A key file cannot be read.", action="Restore it from your backup.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("A key file holds another kind of key.", action="Restore it from your backup.")
    return key


class SetupKey:
    """A hospital's ephemeral hybrid key of one set-up. It has no repr and is erased after step 3."""

    __slots__ = ("_classic", "_lattice")

    def __init__(self, *, classic: x25519.X25519PrivateKey, lattice: mlkem.MLKEM768PrivateKey) -> None:
        self._classic, self._lattice = classic, lattice

    @classmethod
    def generate(cls) -> Self:
        """Return a fresh key."""
        return cls(classic=x25519.X25519PrivateKey.generate(), lattice=mlkem.MLKEM768PrivateKey.generate())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the key back from the vault's private state."""
        return cls(
            classic=x25519.X25519PrivateKey.from_private_bytes(data[:32]),
            lattice=mlkem.MLKEM768PrivateKey.from_seed_bytes(data[32:]),
        )

    def private_bytes(self) -> bytes:
        """Return 32 + 64 bytes for the vault's private state."""
        return self._classic.private_bytes_raw() + self._lattice.private_bytes_raw()

    def public_bytes(self) -> bytes:
        """Return the public half: 32 bytes of X25519, then ML-KEM-768."""
        return self._classic.public_key().public_bytes_raw() + self._lattice.public_key().public_bytes_raw()

    def unseal(self, sealed: bytes, *, info: bytes) -> bytes:
        """Return the secret that a peer sealed to this key; raises BadEnvelope."""
        private = hpke.MLKEM768X25519PrivateKey(self._lattice, self._classic)
        try:
            secret = SUITE.decrypt(sealed, private, info)
        except (InvalidTag, ValueError):
            raise BadEnvelope("A peer's sealed secret does not open.", action="Start a new run.") from None
        if len(secret) != SECRET_BYTES:
            raise BadEnvelope("A peer's sealed secret has the wrong length.", action="Start a new run.")
        return secret


def seal(secret: bytes, *, public: bytes, info: bytes) -> bytes:
    """Seal `secret` to a peer's public setup key; raises BadEnvelope when that key is malformed."""
    sealed: bytes = SUITE.encrypt(secret, public_key(public), info)
    return sealed


def public_key(public: bytes) -> hpke.MLKEM768X25519PublicKey:
    """Read a public setup key; raises BadEnvelope when it is malformed."""
    try:
        classic = x25519.X25519PublicKey.from_public_bytes(public[:32])
        x25519.X25519PrivateKey.generate().exchange(classic)  # a point of low order is refused here, not at the hospitals
        return hpke.MLKEM768X25519PublicKey(mlkem.MLKEM768PublicKey.from_public_bytes(public[32:]), classic)
    except ValueError:
        raise BadEnvelope("A peer's setup key is malformed.", action="Start a new run.") from None


def fresh_secret() -> bytes:
    """Return 32 bytes from the operating system."""
    return secret_bytes(SECRET_BYTES)


def transcript(bundles: Mapping[str, bytes], *, roster_hash: str, run: str) -> bytes:
    """Return T: what every pair key is bound to, the run, the roster and all public setup keys in sorted order."""
    parts = [part for name in sorted(bundles) for part in (name.encode(), bundles[name])]
    return length_prefixed_hash(b"motet/transcript/v1", bytes.fromhex(roster_hash), run.encode(), *parts)


def seal_info(t: bytes, *, sender: str, recipient: str) -> bytes:
    """Return what a sealed secret is bound to."""
    return b"motet/seal/v1" + length_prefixed_hash(t, sender.encode(), recipient.encode())


def pair_key(t: bytes, *, secrets: Mapping[str, bytes]) -> bytes:
    """Return CK_ij from the secrets that the two hospitals of a pair chose, by name."""
    pair: Sequence[str] = sorted(secrets)
    info = b"motet/pair/v1" + length_prefixed_hash(*(name.encode() for name in pair))
    return HKDF(hashes.SHA256(), SECRET_BYTES, t, info).derive(b"".join(secrets[name] for name in pair))
