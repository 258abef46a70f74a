"""Whatever is done to an envelope on its way, it opens unchanged or not at all."""

import contextlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common import canonical, wire
from common.errors import BadEnvelope
from common.wire import Envelope

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
SENT = Envelope(kind="upload", sender="aalen", recipient="hub", run="r1", body={"round": 1}, blob=b"blob")
DATA = wire.seal(SENT, key=KEY)
LETTERS = st.text('ab0 é\u0301"\\\n\u2028\U0001f9ec', max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | LETTERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(LETTERS, inner, max_size=4),
    max_leaves=12,
)


@given(body=st.dictionaries(st.text("abcé", max_size=3), JSON, max_size=4), blob=st.binary(max_size=200))
def test_any_body_and_blob_arrive(body, blob):
    data = wire.seal(Envelope(kind="announce", sender="a", recipient="b", run="r", body=body, blob=blob), key=KEY)
    arrived = wire.open_envelope(data, key=PUBLIC, sender="a", recipient="b")
    assert arrived.blob == blob
    assert canonical.encode(arrived.body) == canonical.encode(body)


@given(at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_any_flipped_byte_is_found(at, flip):
    spoiled = bytearray(DATA)
    spoiled[at] ^= flip
    with pytest.raises(BadEnvelope):
        wire.open_envelope(bytes(spoiled), key=PUBLIC, sender="aalen", recipient="hub")


@given(data=st.binary(max_size=300))
def test_no_bytes_raise_anything_but_bad_envelope(data):
    for candidate in (data, wire.MAGIC + data, wire.MAGIC + struct.pack(">I", max(len(data) - 64, 0)) + data):
        with pytest.raises(BadEnvelope):
            wire.peek(candidate)


@given(head=JSON, blob=st.binary(max_size=8))
def test_no_signed_head_raises_anything_but_bad_envelope(head, blob):
    plain = canonical.encode(head)
    with pytest.raises(BadEnvelope):
        wire.peek(wire.MAGIC + struct.pack(">I", len(plain)) + plain + bytes(64) + blob)


@given(parts=st.lists(st.binary(max_size=40), max_size=6))
def test_parts_survive_packing(parts):
    assert wire.unpack(wire.pack(parts), count=len(parts)) == tuple(parts)


@given(data=st.binary(max_size=60), count=st.integers(0, 5))
def test_unpacked_parts_pack_to_the_same_bytes(data, count):
    with contextlib.suppress(BadEnvelope):
        assert wire.pack(wire.unpack(data, count=count)) == data


@given(value=JSON)
def test_canonical_bytes_are_read_back_and_written_alike(value):
    data = canonical.encode(value)
    assert canonical.encode(canonical.decode(data)) == data


@given(data=st.binary(max_size=60) | LETTERS.map(str.encode))
def test_what_decodes_is_already_canonical(data):
    with contextlib.suppress(ValueError):
        assert canonical.encode(canonical.decode(data)) == data
