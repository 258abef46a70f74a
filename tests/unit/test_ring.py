"""The ring: words on the wire have one length and one meaning; what does not fit is refused."""

import numpy as np
import pytest

from common.crypto import ring
from common.errors import BadEnvelope


@pytest.mark.parametrize("bits", ring.RINGS)
def test_a_value_that_does_not_fit_is_refused(bits):
    top = 1 << (bits - 1)
    for value in (top, -top - 1, 1 << 200, -(1 << 200)):
        with pytest.raises(ValueError, match="does not fit"):
            ring.encode(np.array([0, value], object), bits=bits)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_an_int64_that_does_not_fit_32_bits_is_refused(value):
    with pytest.raises(ValueError, match="does not fit"):
        ring.encode(np.array([0, value], np.int64), bits=32)


@pytest.mark.parametrize("bits", ring.RINGS)
@pytest.mark.parametrize("values", [np.array([1.0]), np.array([np.nan]), np.array(["1"]), np.array([1.5], object)], ids=repr)
def test_what_is_no_integer_is_refused_and_not_truncated(bits, values):
    with pytest.raises(TypeError):
        ring.encode(values, bits=bits)


@pytest.mark.parametrize("bits", ring.RINGS)
def test_an_empty_vector_is_a_vector(bits):
    empty = ring.encode(np.zeros(0, np.int64), bits=bits)
    assert len(ring.decode(empty, bits=bits)) == 0
    assert ring.to_bytes(empty) == b""
    assert len(ring.from_bytes(b"", dimension=0, bits=bits)) == 0
    assert len(ring.total([], dimension=3, bits=bits)) == 3


@pytest.mark.parametrize("bits", ring.RINGS)
@pytest.mark.parametrize("change", [-1, 1, 7, 10**6])
def test_a_vector_of_another_length_is_refused(bits, change):
    size = ring.size_bytes(10, bits=bits)
    data = bytes(max(size + change, 0))
    for dimension in (10, -10, 0, 1 << 60):
        with pytest.raises(BadEnvelope, match="wrong length"):
            ring.from_bytes(data, dimension=dimension, bits=bits)


@pytest.mark.parametrize("bits", [0, 8, 31, 33, 256, -64])
def test_another_ring_is_refused(bits):
    with pytest.raises(BadEnvelope):
        ring.from_bytes(b"", dimension=0, bits=bits)


def test_words_travel_little_endian_low_word_first():
    assert ring.to_bytes(ring.encode(np.array([1], np.int64), bits=32)) == b"\x01\0\0\0"
    assert ring.to_bytes(ring.encode(np.array([-2], np.int64), bits=64)) == b"\xfe" + b"\xff" * 7
    assert ring.to_bytes(ring.encode(np.array([1 << 64], object), bits=128)) == bytes(8) + b"\x01" + bytes(7)
