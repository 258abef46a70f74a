"""The envelope: opened only when whole, signed by whom it says, from and for whom we expect."""

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import canonical, wire
from common.errors import BadEnvelope
from common.wire import Envelope

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
SENT = Envelope(kind="upload", sender="aalen", recipient="hub", run="r1", body={"round": 1, "é": ["x", None]}, blob=b"\0blob")
DATA = wire.seal(SENT, key=KEY)
HEAD = {
    "kind": "upload",
    "sender": "aalen",
    "recipient": "hub",
    "run": "r1",
    "body": {},
    "blob_bytes": 0,
    "blob_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}


def signed(head, *, blob=b"", key=KEY):
    """An envelope around any head at all, as a hostile but enrolled sender can sign it."""
    return wire.MAGIC + struct.pack(">I", len(head)) + head + key.sign(wire.DOMAIN + head) + blob


def opened(data, *, key=KEY, sender="aalen", recipient="hub"):
    return wire.open_envelope(data, key=key.public_key(), sender=sender, recipient=recipient)


def test_an_envelope_comes_out_as_it_went_in():
    assert opened(DATA) == wire.peek(DATA) == SENT
    assert wire.whole_hash(DATA) != wire.whole_hash(DATA[:-1])


@pytest.mark.parametrize("kind", sorted(wire.KINDS))
def test_every_kind_travels(kind):
    data = wire.seal(Envelope(kind=kind, sender="a", recipient="b", run="", body={}), key=KEY)
    assert opened(data, sender="a", recipient="b").kind == kind


def test_an_unknown_kind_is_neither_sealed_nor_opened():
    with pytest.raises(ValueError, match="unknown kind"):
        wire.seal(Envelope(kind="gradient", sender="a", recipient="b", run="r", body={}), key=KEY)
    with pytest.raises(BadEnvelope):
        wire.peek(signed(canonical.encode({**HEAD, "kind": "gradient"})))


def test_an_oversized_head_is_not_sealed():
    with pytest.raises(ValueError, match="too large"):
        wire.seal(Envelope(kind="upload", sender="a", recipient="b", run="r", body={"x": "y" * wire.HEAD_BYTES_MOST}), key=KEY)


@pytest.mark.parametrize("body", [{"x": 1.5}, {"x": float("nan")}, {"x": b""}, {1: 2}])
def test_a_body_that_is_not_canonical_is_not_sealed(body):
    with pytest.raises(TypeError):
        wire.seal(Envelope(kind="upload", sender="a", recipient="b", run="r", body=body), key=KEY)


def test_every_truncation_and_every_added_byte_is_found():
    for size in range(len(DATA)):
        with pytest.raises(BadEnvelope):
            opened(DATA[:size])
    with pytest.raises(BadEnvelope):
        opened(DATA + b"\0")


def test_a_signature_by_another_key_is_refused():
    with pytest.raises(BadEnvelope, match="signature"):
        opened(DATA, key=OTHER)
    with pytest.raises(BadEnvelope, match="signature"):
        opened(wire.seal(SENT, key=OTHER))


def test_a_signature_for_another_purpose_is_refused():
    head = canonical.encode(HEAD)
    data = wire.MAGIC + struct.pack(">I", len(head)) + head + KEY.sign(b"motet/roster/v1\0" + head)
    with pytest.raises(BadEnvelope, match="signature"):
        opened(data)


@pytest.mark.parametrize(("sender", "recipient"), [("hub", "aalen"), ("aalen", "bonn"), ("bonn", "hub"), ("", "")])
def test_an_envelope_for_or_from_somebody_else_is_refused(sender, recipient):
    with pytest.raises(BadEnvelope, match="somebody else"):
        opened(DATA, sender=sender, recipient=recipient)


def test_another_blob_under_the_same_signature_is_refused():
    with pytest.raises(BadEnvelope, match="blob"):
        opened(DATA[:-5] + b"\0blok")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        canonical.encode({**HEAD, "extra": 1}),
        canonical.encode({key: value for key, value in HEAD.items() if key != "run"}),
        canonical.encode({**HEAD, "kind": ["upload"]}),
        canonical.encode({**HEAD, "kind": {}}),
        canonical.encode({**HEAD, "kind": None}),
        canonical.encode({**HEAD, "sender": 1}),
        canonical.encode({**HEAD, "recipient": True}),
        canonical.encode({**HEAD, "run": {}}),
        canonical.encode({**HEAD, "run": "r" * 129}),
        canonical.encode({**HEAD, "body": []}),
        canonical.encode({**HEAD, "body": "x"}),
        canonical.encode({**HEAD, "body": None}),
        canonical.encode({**HEAD, "blob_bytes": "0"}),
        canonical.encode({**HEAD, "blob_bytes": -1}),
        canonical.encode({**HEAD, "blob_sha256": None}),
        canonical.encode(HEAD) + b" ",
        canonical.encode(HEAD).replace(b'"run":"r1"', b'"run":"r1","run":"r1"'),
        canonical.encode(HEAD).replace(b'"blob_bytes":0', b'"blob_bytes":0.0'),
        canonical.encode(HEAD).replace(b'"body":{}', b'"body":{"x":NaN}'),
        canonical.encode(HEAD).replace(b'"body":{}', b'"body":{"x":"\\ud800"}'),
    ],
    ids=lambda head: repr(head[:30]),
)
def test_a_signed_head_that_is_not_one_is_refused(head):
    with pytest.raises(BadEnvelope):
        opened(signed(head))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_head_length_that_lies_is_refused(size):
    with pytest.raises(BadEnvelope):
        opened(wire.MAGIC + struct.pack(">I", size) + DATA[10:])


@pytest.mark.parametrize("data", [b"", b"MOTET", b"MOTET\x02" + DATA[6:], b"\x80\x04", b"\0" * 1000, DATA[::-1]])
def test_something_else_is_not_an_envelope(data):
    with pytest.raises(BadEnvelope):
        wire.peek(data)


@pytest.mark.parametrize("parts", [(), (b"",), (b"", b""), (b"a", b"", b"bc" * 1000)])
def test_packed_parts_come_out_as_they_went_in(parts):
    assert wire.unpack(wire.pack(parts), count=len(parts)) == parts


@pytest.mark.parametrize("count", [0, 1, 3, 10**9, -1])
def test_another_number_of_parts_is_refused(count):
    with pytest.raises(BadEnvelope, match="announced parts"):
        wire.unpack(wire.pack([b"a", b"b"]), count=count)


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0", b"\0\0\0\x02a", b"\xff\xff\xff\xff", b"\0\0\0\0\0"])
def test_parts_that_do_not_fill_the_blob_are_refused(data):
    for count in range(4):
        with pytest.raises(BadEnvelope):
            wire.unpack(data, count=count)
