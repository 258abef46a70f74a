"""For every roster and every vector, rings agree with Python integers and masks cancel in the sum, and only there."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.crypto import masking, ring

BITS = st.sampled_from(ring.RINGS)


def signed(value, bits):
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def integers(bits):
    top = 1 << (bits - 1)
    edges = st.sampled_from([0, 1, -1, top - 1, -top, top // 2, (1 << (bits // 2)) - 1, -(1 << (bits // 2))])
    return edges | st.integers(-top, top - 1)


@st.composite
def vectors(draw, *, count):
    bits = draw(BITS)
    size = draw(st.integers(0, 9))
    row = st.lists(integers(bits), min_size=size, max_size=size)
    return bits, size, [draw(row) for _ in range(count)]


@st.composite
def federations(draw):
    names = draw(st.lists(st.text("abcdefgh-0", min_size=1, max_size=5), min_size=2, max_size=8, unique=True))
    bits, size, rows = draw(vectors(count=len(names)))
    return names, bits, size, dict(zip(names, rows, strict=True)), draw(st.binary(min_size=32, max_size=32))


def words(values, bits):
    return ring.encode(np.array(values, object), bits=bits)


@given(one=vectors(count=2))
def test_the_ring_is_the_integers_modulo_its_size(one):
    bits, _, (left, right) = one
    added = ring.decode(ring.add(words(left, bits), words(right, bits)), bits=bits)
    subtracted = ring.decode(ring.subtract(words(left, bits), words(right, bits)), bits=bits)
    assert added.tolist() == [signed(x + y, bits) for x, y in zip(left, right, strict=True)]
    assert subtracted.tolist() == [signed(x - y, bits) for x, y in zip(left, right, strict=True)]


@given(one=vectors(count=1))
def test_values_survive_words_and_bytes(one):
    bits, size, (values,) = one
    encoded = words(values, bits)
    data = ring.to_bytes(encoded)
    assert data == b"".join((value % (1 << bits)).to_bytes(bits // 8, "little") for value in values)
    assert len(data) == ring.size_bytes(size, bits=bits)
    assert ring.decode(ring.from_bytes(data, dimension=size, bits=bits), bits=bits).tolist() == values


@given(values=st.lists(integers(32), max_size=9), bits=BITS)
def test_an_int64_vector_encodes_as_its_integers_do(values, bits):
    assert (ring.encode(np.array(values, np.int64), bits=bits) == words(values, bits)).all()


@given(one=federations())
def test_the_sum_of_masked_vectors_is_the_sum_of_the_vectors(one):
    names, bits, size, plain, ctx = one
    pair_keys = {frozenset(pair): masking.ratchet(ctx, steps=at) for at, pair in enumerate(combinations(names, 2))}
    uploads = []
    for me in names:
        seeds = {peer: masking.seed(pair_keys[frozenset((me, peer))], ctx=ctx, pair=(me, peer)) for peer in names if peer != me}
        masked = masking.mask(words(plain[me], bits), me=me, seeds=seeds, bits=bits)
        if size >= 4:
            assert ring.to_bytes(masked) != ring.to_bytes(words(plain[me], bits))
        uploads.append(masked)
    total = ring.decode(ring.total(uploads, dimension=size, bits=bits), bits=bits)
    assert total.tolist() == [signed(sum(column), bits) for column in zip(*plain.values(), strict=True)]
    if size >= 4:  # one upload less, and the sum is noise
        short = ring.decode(ring.total(uploads[1:], dimension=size, bits=bits), bits=bits)
        rest = [plain[name] for name in names[1:]]
        assert short.tolist() != [signed(sum(column), bits) for column in zip(*rest, strict=True)]


@given(key=st.binary(min_size=32, max_size=32), first=st.integers(0, 20), second=st.integers(0, 20))
def test_a_hospital_that_missed_rounds_catches_up(key, first, second):
    assert masking.ratchet(masking.ratchet(key, steps=first), steps=second) == masking.ratchet(key, steps=first + second)
