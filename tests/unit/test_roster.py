"""The roster: sorted, without doubles, signed; a hash that names exactly these members."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import canonical, roster
from common.errors import ConfigError
from common.roster import Member

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def key_of(number):
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def member(number, *, name=None):
    identity = key_of(number + 1).public_key().public_bytes_raw().hex()
    return Member(
        name=name or f"hosp-{number:03d}",
        identity=identity,
        ledger_key="ledger+00000000+AQ==",
        node_key="ecdsa AAAA",
        relay_certificate="",
    )


def sign(*members, federation="phantoms", coordinator="hub"):
    return roster.sign(federation=federation, coordinator=coordinator, key=KEY, members=members)


def resigned(plain):
    """Any body at all, signed by the coordinator."""
    signature = KEY.sign(roster.DOMAIN + canonical.encode(plain)).hex()
    return canonical.encode({**plain, "signature": signature})


GOOD = sign(member(2), member(1), member(3))


def test_a_roster_is_sorted_and_reads_back():
    assert GOOD.names == ("hosp-001", "hosp-002", "hosp-003")
    assert roster.parse(GOOD.bytes()) == GOOD
    assert GOOD.hash() == canonical.digest(GOOD.body())
    assert GOOD.identity("hub").public_bytes_raw() == KEY.public_key().public_bytes_raw()
    assert GOOD.identity("hosp-002").public_bytes_raw().hex() == GOOD.member("hosp-002").identity


def test_the_order_of_enrolment_does_not_change_the_hash():
    assert sign(member(3), member(1), member(2)).hash() == GOOD.hash()


def test_any_other_member_or_key_changes_the_hash():
    others = [
        sign(member(1), member(2)),
        sign(member(1), member(2), member(4)),
        sign(member(1), member(2), member(3), federation="other"),
        sign(member(1), member(2), member(3), coordinator="other"),
    ]
    assert len({GOOD.hash(), *(other.hash() for other in others)}) == 5


def test_a_stranger_is_not_a_member():
    with pytest.raises(KeyError):
        GOOD.member("nobody")
    with pytest.raises(KeyError):
        GOOD.identity("nobody")


@pytest.mark.parametrize("count", [0, 1, 65])
def test_too_few_and_too_many_members_are_refused(count):
    with pytest.raises(ConfigError, match="2 to 64 hospitals"):
        sign(*(member(number) for number in range(count)))


def test_sixty_four_members_are_a_roster():
    assert len(roster.parse(sign(*(member(number) for number in range(64))).bytes()).members) == 64


@pytest.mark.parametrize(
    "members",
    [
        (member(1), member(1)),
        (member(1), member(2, name="hosp-001")),
        (member(1), member(1, name="hosp-002")),
        (member(1), member(2, name="hub")),
    ],
)
def test_a_name_or_key_that_is_there_twice_is_refused(members):
    with pytest.raises(ConfigError, match="share a name or a key"):
        sign(*members)


def test_a_member_with_the_coordinators_key_is_refused():
    own = Member(
        name="hosp", identity=KEY.public_key().public_bytes_raw().hex(), ledger_key="x", node_key="", relay_certificate=""
    )
    with pytest.raises(ConfigError, match="share a name or a key"):
        sign(own, member(1))


def test_another_order_is_refused_although_it_is_signed():
    body = GOOD.body()
    body["members"].reverse()
    with pytest.raises(ConfigError, match="order"):
        roster.parse(resigned(body))


def test_another_signature_is_refused():
    plain = json.loads(GOOD.bytes())
    plain["signature"] = KEY.sign(b"something else").hex()
    with pytest.raises(ConfigError, match="signature does not hold"):
        roster.parse(canonical.encode(plain))
    plain["signature"] = key_of(9).sign(roster.DOMAIN + canonical.encode(GOOD.body())).hex()
    with pytest.raises(ConfigError, match="signature does not hold"):
        roster.parse(canonical.encode(plain))


def test_every_changed_byte_is_found():
    data = GOOD.bytes()
    for at in range(len(data)):
        spoiled = bytearray(data)
        spoiled[at] ^= 1
        with pytest.raises(ConfigError):
            roster.parse(bytes(spoiled))


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"version": 2},
        {"version": None},
        {"federation": "Upper"},
        {"federation": 5},
        {"federation": "x" * 33},
        {"federation": "a\n"},
        {"coordinator": "hub"},
        {"coordinator": []},
        {"coordinator": {"name": "hub"}},
        {"coordinator": {"name": "hub", "identity": "zz"}},
        {"coordinator": {"name": "hub", "identity": "00"}},
        {"coordinator": {"name": "hub", "identity": 7}},
        {"members": None},
        {"members": 3},
        {"members": "ab"},
        {"members": [1, 2]},
        {"members": [{}, {}]},
        {"members": {"a": 1}},
    ],
    ids=str,
)
def test_a_signed_roster_of_another_shape_is_refused(change):
    with pytest.raises(ConfigError):
        roster.parse(resigned({**GOOD.body(), **change}))


@pytest.mark.parametrize("signature", [None, 5, "", "zz", "00", [], "é"])
def test_a_signature_that_is_none_is_refused(signature):
    with pytest.raises(ConfigError):
        roster.parse(canonical.encode({**GOOD.body(), "signature": signature}))


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"members":' * 50_000 + b"1" + b"}" * 50_000, b" " * (2 << 20)],
    ids=lambda data: repr(data[:12]),
)
def test_something_else_is_not_a_roster(data):
    with pytest.raises(ConfigError):
        roster.parse(data)


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a_b", "a b", "a" * 33, "a\n", "é", "../a"])
def test_a_hospitals_name_is_a_plain_word(name):
    with pytest.raises(ValueError, match="name"):
        Member(name=name, identity="0" * 64, ledger_key="x", node_key="x", relay_certificate="")


@pytest.mark.parametrize("identity", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", " " * 64])
def test_an_identity_is_64_hex_digits(identity):
    with pytest.raises(ValueError, match="64 hex digits"):
        Member(name="a", identity=identity, ledger_key="x", node_key="x", relay_certificate="")


@pytest.mark.parametrize(("ledger_key", "node_key"), [("", "x"), ("x" * 4097, "x"), ("x", "x" * 4097)])
def test_a_key_that_is_missing_or_too_long_is_refused(ledger_key, node_key):
    with pytest.raises(ValueError, match="missing or too long"):
        Member(name="a", identity="0" * 64, ledger_key=ledger_key, node_key=node_key, relay_certificate="")
