"""Integers modulo 2^32, 2^64 and 2^128 as numpy words: the arithmetic in which masks cancel.

A ring vector has dtype uint32 (32), uint64 (64), or uint64 with shape (d, 2), low word first (128). On the wire: little-endian.
"""

import operator
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.errors import BadEnvelope

Words = NDArray[Any]
RINGS: Final = (32, 64, 128)
WORD_MASK: Final = (1 << 64) - 1
CHUNK_BYTES: Final = 1 << 17  # what is worked on at once: two of these stay in a core's own cache


def zeros(dimension: int, *, bits: int) -> Words:
    """Return the zero vector."""
    if bits == 128:
        return np.zeros((dimension, 2), np.uint64)
    return np.zeros(dimension, {32: np.uint32, 64: np.uint64}[bits])


def size_bytes(dimension: int, *, bits: int) -> int:
    """Return how many bytes a vector takes."""
    return dimension * bits // 8


def chunk_rows(*, bits: int) -> int:
    """Return how many entries make one chunk."""
    return CHUNK_BYTES * 8 // bits


def encode(values: NDArray[Any], *, bits: int) -> Words:
    """Return signed integers as ring words.

    values: shape (d,), int64, or object holding Python integers. Raises ValueError when one is outside
    [-2^(bits-1), 2^(bits-1)), TypeError when one is no integer.
    """
    if values.dtype == np.int64 and bits < 128:
        limit = 1 << (bits - 1)
        if bits < 64 and values.size and (int(values.max()) >= limit or int(values.min()) < -limit):
            raise ValueError("a value does not fit the ring")
        return values.astype({32: np.uint32, 64: np.uint64}[bits])
    integers = [operator.index(value) for value in values]  # a float is not truncated: TypeError
    if any(not -(1 << (bits - 1)) <= value < (1 << (bits - 1)) for value in integers):
        raise ValueError("a value does not fit the ring")
    if bits < 128:
        return np.array([value & ((1 << bits) - 1) for value in integers], {32: np.uint32, 64: np.uint64}[bits])
    words = [((value & WORD_MASK), (value >> 64) & WORD_MASK) for value in integers]
    return np.array(words, np.uint64).reshape(len(words), 2)


def decode(words: Words, *, bits: int) -> NDArray[Any]:
    """Return ring words as signed integers: int64 for rings of 32 and 64 bits, Python integers for 128."""
    if bits == 32:
        return words.view(np.int32).astype(np.int64)
    if bits == 64:
        return words.view(np.int64).copy()
    out = np.empty(len(words), dtype=object)
    for index, (low, high) in enumerate(words.tolist()):
        value = (high << 64) | low
        out[index] = value - (1 << 128) if value >> 127 else value
    return out


def add(left: Words, right: Words) -> Words:
    """Return left + right in the ring of their dtype and shape."""
    result = left.copy()
    add_into(result, right)
    return result


def subtract(left: Words, right: Words) -> Words:
    """Return left - right in the ring of their dtype and shape."""
    result = left.copy()
    subtract_into(result, right)
    return result


def add_into(accumulator: Words, words: Words) -> None:
    """Add `words` to `accumulator` in place, with true carries; the two share no memory."""
    np.add(accumulator, words, out=accumulator)
    if accumulator.ndim == 2:
        carry = accumulator[:, 0] < words[:, 0]
        np.add(accumulator[:, 1], carry, out=accumulator[:, 1])


def subtract_into(accumulator: Words, words: Words) -> None:
    """Subtract `words` from `accumulator` in place, with true borrows; the two share no memory."""
    borrow = accumulator[:, 0] < words[:, 0] if accumulator.ndim == 2 else None
    np.subtract(accumulator, words, out=accumulator)
    if borrow is not None:
        np.subtract(accumulator[:, 1], borrow, out=accumulator[:, 1])


def total(vectors: Iterable[Words], *, dimension: int, bits: int) -> Words:
    """Return the sum of `vectors` in the ring.

    Memory: the vectors and one accumulator. A chunk of it stays in cache while every vector is added.
    Raises ValueError when a vector is of another length or ring.
    """
    parts, result = list(vectors), zeros(dimension, bits=bits)
    if any(part.shape != result.shape or part.dtype != result.dtype for part in parts):
        raise ValueError("a vector is of another length or ring")
    rows = chunk_rows(bits=bits)
    for start in range(0, dimension, rows):
        chunk = result[start : start + rows]
        for part in parts:
            add_into(chunk, part[start : start + rows])
    return result


def to_bytes(words: Words) -> bytes:
    """Return the little-endian bytes of a vector."""
    return words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes()


def from_bytes(data: bytes, *, dimension: int, bits: int) -> Words:
    """Read a vector: a read-only view of `data` where the machine is little-endian.

    Raises BadEnvelope when the length is not exactly right.
    """
    if bits not in RINGS or len(data) != size_bytes(dimension, bits=bits):
        raise BadEnvelope("A vector has the wrong length.", action="Check that both sides run the same version.")
    words = wire_view(data, bits=bits)
    return words.astype(words.dtype.newbyteorder("="), copy=False)


def wire_view(data: bytes | bytearray | memoryview, *, bits: int) -> Words:
    """Return the little-endian words in `data` without a copy: what is written to `data` later shows."""
    if bits == 32:
        return np.frombuffer(data, "<u4")
    words = np.frombuffer(data, "<u8")
    return words.reshape(-1, 2) if bits == 128 else words
