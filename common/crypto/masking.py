"""Masks: key streams that cancel when everybody named in the round has uploaded.

y_i = x_i + sum over peers j > i of PRG(s_ij) - sum over peers j < i of PRG(s_ij), s_ij = Expand(CK_ij^r, "mask", ctx, i, j).
Source: reference secure-sum.md, section 0.
"""

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from common.crypto import ring
from common.crypto.keys import expand, length_prefixed_hash

THREADED_BYTES: Final = 1 << 24  # of key stream; below, starting threads costs more than they save
_ZEROS: Final = memoryview(bytes(ring.CHUNK_BYTES))


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
    size = ring.size_bytes(dimension, bits=bits)
    return ring.from_bytes(_encryptor(_prg_key(seed_bytes), start=0).update(bytes(size)), dimension=dimension, bits=bits)


def mask(words: ring.Words, *, me: str, seeds: Mapping[str, bytes], bits: int, threads: int | None = None) -> ring.Words:
    """Return `words` plus this hospital's masks against every peer in `seeds`; `words` is not changed."""
    masked = words.copy()
    add_masks(masked, me=me, seeds=seeds, bits=bits, threads=threads)
    return masked


def add_masks(words: ring.Words, *, me: str, seeds: Mapping[str, bytes], bits: int, threads: int | None = None) -> None:
    """Add this hospital's masks against every peer in `seeds` to `words`, in place.

    `threads` None takes this process's cores where the vector is large; the bytes are the same for any number.
    Raises ValueError when `words` is not of the ring, or there are no threads.
    """
    empty = ring.zeros(0, bits=bits)
    if words.dtype != empty.dtype or words.shape[1:] != empty.shape[1:]:
        raise ValueError("the words are of another ring")
    keys = [(_prg_key(seeds[peer]), me < peer) for peer in sorted(seeds)]
    if threads is None:
        threads = _cores() if words.nbytes * len(keys) >= THREADED_BYTES else 1
    if threads < 1:
        raise ValueError("there must be a thread")
    rows = ring.chunk_rows(bits=bits)
    rows_each = max(1, math.ceil(len(words) / rows / threads)) * rows
    starts = range(0, len(words), rows_each)

    def work(start: int) -> None:
        _add_range(words[start : start + rows_each], start, keys=keys, bits=bits)

    if len(starts) > 1:
        with ThreadPoolExecutor(len(starts)) as pool:
            list(pool.map(work, starts))
    else:
        for start in starts:
            work(start)


def _add_range(words: ring.Words, first: int, *, keys: Sequence[tuple[bytes, bool]], bits: int) -> None:
    """Mask the rows from `first` on: chunks outside, keys inside, so that the chunk and the key stream stay in cache."""
    offset = ring.size_bytes(first, bits=bits)
    streams = [(_encryptor(key, start=offset), ring.add_into if plus else ring.subtract_into) for key, plus in keys]
    buffer, rows = bytearray(ring.CHUNK_BYTES), ring.chunk_rows(bits=bits)
    target, key_stream = memoryview(buffer), ring.wire_view(buffer, bits=bits)
    for at in range(0, len(words), rows):
        chunk = words[at : at + rows]
        size = ring.size_bytes(len(chunk), bits=bits)
        for encryptor, combine in streams:
            encryptor.update_into(_ZEROS[:size], target[:size])
            combine(chunk, key_stream[: len(chunk)])


def _prg_key(seed_bytes: bytes) -> bytes:
    """Return 32 bytes of AES-256 key and 16 bytes of first counter block."""
    return expand(seed_bytes, b"motet/prg/v1", size=48)


def _encryptor(key: bytes, *, start: int) -> CipherContext:
    """Return the stream of `key` from byte `start` on, a multiple of 16: the counter is a 128-bit big-endian integer."""
    counter = (int.from_bytes(key[32:], "big") + start // 16) % (1 << 128)
    return Cipher(algorithms.AES256(key[:32]), modes.CTR(counter.to_bytes(16, "big"))).encryptor()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
