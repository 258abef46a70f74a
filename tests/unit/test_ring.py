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


@pytest.mark.parametrize("bits", ring.RINGS)
@pytest.mark.parametrize("past", [-1, 0, 1])
def test_a_total_over_many_chunks_carries_as_integers_do(bits, past):
    size = 2 * ring.chunk_rows(bits=bits) + past
    drawn = np.random.default_rng(bits + past).bytes(3 * ring.size_bytes(size, bits=bits))
    parts = [drawn[at::3] for at in range(3)]
    parts[1] = b"\xff" * len(parts[1])  # a carry in every entry
    vectors = [ring.from_bytes(part, dimension=size, bits=bits) for part in parts]
    integers = [
        [int.from_bytes(part[at : at + bits // 8], "little") for at in range(0, len(part), bits // 8)] for part in parts
    ]
    wanted = b"".join((sum(column) % 2**bits).to_bytes(bits // 8, "little") for column in zip(*integers, strict=True))
    assert ring.to_bytes(ring.total(vectors, dimension=size, bits=bits)) == wanted
    assert [ring.to_bytes(vector) for vector in vectors] == parts


@pytest.mark.parametrize("bits", ring.RINGS)
def test_sums_and_differences_leave_their_terms_alone_even_of_one_vector(bits):
    words = ring.encode(np.array([-1, 1, 2**31 - 1], object), bits=bits)
    assert ring.decode(ring.add(words, words), bits=bits).tolist() == [-2, 2, 2**32 - 2 if bits > 32 else -2]
    assert not ring.subtract(words, words).any()
    assert ring.decode(words, bits=bits).tolist() == [-1, 1, 2**31 - 1]


@pytest.mark.parametrize("bits", ring.RINGS)
def test_a_total_of_another_length_or_ring_is_refused(bits):
    good = ring.zeros(3, bits=bits)
    others = [ring.zeros(size, bits=bits) for size in (0, 1, 2, 4)]
    others += [ring.zeros(3, bits=other) for other in ring.RINGS if other != bits]
    for other in [*others, good.astype(np.int64), good.astype(np.float64)]:
        with pytest.raises(ValueError, match="another length or ring"):
            ring.total([good, other], dimension=3, bits=bits)


@pytest.mark.parametrize("bits", ring.RINGS)
def test_a_vector_is_read_without_a_copy(bits):
    data = bytes(range(64))
    words = ring.from_bytes(data, dimension=512 // bits, bits=bits)
    assert np.shares_memory(words, np.frombuffer(data, np.uint8))
    assert not words.flags.writeable
