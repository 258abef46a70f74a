"""An enrolment: signed by the identity that it carries, or refused."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import canonical, enrolment
from common.errors import ConfigError
from common.roster import Member

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
MEMBER = Member(
    name="aalen", identity=KEY.public_key().public_bytes_raw().hex(), ledger_key="l", node_key="n", relay_certificate=""
)
DATA = enrolment.request(MEMBER, key=KEY)


def test_an_enrolment_reads_back():
    assert enrolment.parse(DATA) == MEMBER


def test_every_changed_byte_is_found():
    for at in range(len(DATA)):
        spoiled = bytearray(DATA)
        spoiled[at] ^= 1
        with pytest.raises(ConfigError):
            enrolment.parse(bytes(spoiled))


def test_every_truncation_is_found():
    for size in range(len(DATA)):
        with pytest.raises(ConfigError):
            enrolment.parse(DATA[:size])


@pytest.mark.parametrize("key", ["name", "ledger", "node"])
def test_a_tampered_enrolment_is_refused(key):
    plain = json.loads(DATA)
    plain[key] += "x"
    with pytest.raises(ConfigError, match="signature"):
        enrolment.parse(canonical.encode(plain))


def test_an_enrolment_signed_by_another_identity_is_refused():
    with pytest.raises(ConfigError, match="signature"):
        enrolment.parse(enrolment.request(MEMBER, key=OTHER))


def test_an_enrolment_with_another_identity_put_in_is_refused():
    plain = json.loads(DATA) | {"identity": OTHER.public_key().public_bytes_raw().hex()}
    with pytest.raises(ConfigError, match="signature"):
        enrolment.parse(canonical.encode(plain))


@pytest.mark.parametrize("change", [{"extra": "x"}, {"name": None}, {"name": []}, {"identity": 5}, {"signature": None}])
def test_an_enrolment_of_another_shape_is_refused(change):
    with pytest.raises(ConfigError, match="malformed"):
        enrolment.parse(canonical.encode({**json.loads(DATA), **change}))


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"3", b"\xff", b"[" * 30_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b" " * 100_000],
    ids=lambda data: repr(data[:12]),
)
def test_something_else_is_not_an_enrolment(data):
    with pytest.raises(ConfigError, match="enrol"):
        enrolment.parse(data)
