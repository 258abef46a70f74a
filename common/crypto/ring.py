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


def zeros(dimension: int, *, bits: int) -> Words:
    """Return the zero vector."""
    if bits == 128:
        return np.zeros((dimension, 2), np.uint64)
    return np.zeros(dimension, {32: np.uint32, 64: np.uint64}[bits])


def size_bytes(dimension: int, *, bits: int) -> int:
    """Return how many bytes a vector takes."""
    return dimension * bits // 8


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
    if left.ndim == 1:
        return left + right
    low = left[:, 0] + right[:, 0]
    carry = (low < left[:, 0]).astype(np.uint64)
    return np.stack([low, left[:, 1] + right[:, 1] + carry], axis=1)


def subtract(left: Words, right: Words) -> Words:
    """Return left - right in the ring of their dtype and shape."""
    if left.ndim == 1:
        return left - right
    borrow = (left[:, 0] < right[:, 0]).astype(np.uint64)
    return np.stack([left[:, 0] - right[:, 0], left[:, 1] - right[:, 1] - borrow], axis=1)


def total(vectors: Iterable[Words], *, dimension: int, bits: int) -> Words:
    """Return the sum of `vectors` in the ring."""
    result = zeros(dimension, bits=bits)
    for vector in vectors:
        result = add(result, vector)
    return result


def to_bytes(words: Words) -> bytes:
    """Return the little-endian bytes of a vector."""
    return words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes()


def from_bytes(data: bytes, *, dimension: int, bits: int) -> Words:
    """Read a vector; raises BadEnvelope when the length is not exactly right."""
    if bits not in RINGS or len(data) != size_bytes(dimension, bits=bits):
        raise BadEnvelope("A vector has the wrong length.", action="Check that both sides run the same version.")
    if bits == 32:
        return np.frombuffer(data, "<u4").astype(np.uint32)
    words = np.frombuffer(data, "<u8").astype(np.uint64)
    return words.reshape(dimension, 2) if bits == 128 else words
