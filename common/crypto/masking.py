"""Masks: key streams that cancel when everybody named in the round has uploaded.

y_i = x_i + sum over peers j > i of PRG(s_ij) - sum over peers j < i of PRG(s_ij), s_ij = Expand(CK_ij^r, "mask", ctx, i, j).
Source: reference secure-sum.md, section 0.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from common.crypto import ring
from common.crypto.keys import expand, length_prefixed_hash


def ratchet(pair_key: bytes, *, steps: int) -> bytes:
    """Return the pair key `steps` rounds later; the earlier one cannot be computed from it."""
    for _ in range(steps):
        pair_key = expand(pair_key, b"motet/ratchet/v1")
    return pair_key


def context(transcript: bytes, *, announcement: bytes) -> bytes:
    """Return ctx: what every mask of a round is bound to.

    announcement: canonical bytes that name round, roster, study, task, model hash, layout, ring, scale and clip.
    """
    return length_prefixed_hash(b"motet/context/v1", transcript, announcement)


def seed(pair_key: bytes, *, ctx: bytes, pair: tuple[str, str]) -> bytes:
    """Return s_ij; both hospitals of the pair derive the same."""
    first, second = sorted(pair)
    return expand(pair_key, b"motet/mask/v1", ctx, first.encode(), second.encode())


def commitment(seed_bytes: bytes, *, ctx: bytes) -> str:
    """Return H(s_ij, ctx) as hex: equal at both ends exactly when both were told the same."""
    return length_prefixed_hash(b"motet/commit/v1", seed_bytes, ctx).hex()


def stream(seed_bytes: bytes, *, dimension: int, bits: int) -> ring.Words:
    """Return PRG(s): AES-256-CTR key stream as ring words. One seed makes one stream, ever."""
    key = expand(seed_bytes, b"motet/prg/v1", size=48)
    encryptor = Cipher(algorithms.AES(key[:32]), modes.CTR(key[32:])).encryptor()
    return ring.from_bytes(encryptor.update(bytes(ring.size_bytes(dimension, bits=bits))), dimension=dimension, bits=bits)


def mask(words: ring.Words, *, me: str, seeds: Mapping[str, bytes], bits: int) -> ring.Words:
    """Return `words` plus this hospital's masks against every peer in `seeds`."""
    for peer in sorted(seeds):
        key_stream = stream(seeds[peer], dimension=len(words), bits=bits)
        words = ring.add(words, key_stream) if me < peer else ring.subtract(words, key_stream)
    return words
