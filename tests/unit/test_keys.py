"""Identities and pair keys: sealed for one peer and one transcript; the pair derives one key and nobody else does."""

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto import keys
from common.crypto.keys import SetupKey
from common.errors import BadEnvelope, ConfigError

MINE, OTHER = SetupKey.generate(), SetupKey.generate()
SECRET = bytes(range(32))
INFO = b"info"


def test_a_sealed_secret_opens_for_its_recipient_only():
    sealed = keys.seal(SECRET, public=MINE.public_bytes(), info=INFO)
    assert MINE.unseal(sealed, info=INFO) == SECRET
    assert SECRET not in sealed
    with pytest.raises(BadEnvelope, match="does not open"):
        OTHER.unseal(sealed, info=INFO)
    with pytest.raises(BadEnvelope, match="does not open"):
        MINE.unseal(sealed, info=b"other")


def test_every_changed_byte_of_a_sealed_secret_is_found():
    sealed = keys.seal(SECRET, public=MINE.public_bytes(), info=INFO)
    for at in (*range(0, len(sealed), 37), len(sealed) - 1):
        spoiled = bytearray(sealed)
        spoiled[at] ^= 1
        with pytest.raises(BadEnvelope):
            MINE.unseal(bytes(spoiled), info=INFO)


@pytest.mark.parametrize("sealed", [b"", b"x", bytes(32), bytes(1120), bytes(10_000)], ids=len)
def test_something_else_is_not_a_sealed_secret(sealed):
    with pytest.raises(BadEnvelope, match="does not open"):
        MINE.unseal(sealed, info=INFO)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(size):
    with pytest.raises(BadEnvelope, match="wrong length"):
        MINE.unseal(keys.seal(bytes(size), public=MINE.public_bytes(), info=INFO), info=INFO)


@pytest.mark.parametrize(
    "public",
    [
        b"",
        bytes(31),
        MINE.public_bytes()[:-1],
        MINE.public_bytes() + b"\0",
        b"\xff" * 1216,
        bytes(32) + MINE.public_bytes()[32:],
    ],
    ids=["empty", "short", "truncated", "longer", "not a lattice key", "low order"],
)
def test_a_malformed_public_key_is_refused(public):
    with pytest.raises(BadEnvelope, match="malformed"):
        keys.seal(SECRET, public=public, info=INFO)


def test_a_setup_key_reads_back_and_does_not_show_itself():
    data = MINE.private_bytes()
    assert SetupKey.from_bytes(data).public_bytes() == MINE.public_bytes()
    shown = repr(MINE) + str(MINE) + f"{MINE}"
    for size in range(0, len(data) - 8, 8):
        assert data[size : size + 8].hex() not in shown
        assert repr(data[size : size + 8])[2:-1] not in shown
    with pytest.raises(TypeError):
        vars(MINE)


@pytest.mark.parametrize("size", [0, 32, 95, 97])
def test_a_setup_key_of_another_length_is_refused(size):
    with pytest.raises(ValueError):
        SetupKey.from_bytes(bytes(size))


def test_two_generated_keys_and_secrets_differ():
    assert MINE.public_bytes() != OTHER.public_bytes()
    assert len({keys.fresh_secret() for _ in range(100)}) == 100
    assert {len(keys.fresh_secret()) for _ in range(10)} == {32}


def test_both_ends_of_a_pair_derive_one_key_whatever_the_order():
    one = keys.pair_key(b"t" * 32, secrets={"a": b"1" * 32, "b": b"2" * 32})
    assert keys.pair_key(b"t" * 32, secrets={"b": b"2" * 32, "a": b"1" * 32}) == one


def test_a_pair_key_is_bound_to_names_secrets_and_transcript():
    made = [
        keys.pair_key(b"t" * 32, secrets={"a": b"1" * 32, "b": b"2" * 32}),
        keys.pair_key(b"u" * 32, secrets={"a": b"1" * 32, "b": b"2" * 32}),
        keys.pair_key(b"t" * 32, secrets={"a": b"2" * 32, "b": b"1" * 32}),
        keys.pair_key(b"t" * 32, secrets={"a": b"1" * 32, "c": b"2" * 32}),
        keys.pair_key(b"t" * 32, secrets={"ab": b"1" * 32, "": b"2" * 32}),
    ]
    assert len(set(made)) == len(made)


def test_a_transcript_is_bound_to_run_roster_and_every_bundle():
    bundles = {"a": b"x", "b": b"y"}
    made = [
        keys.transcript(bundles, roster_hash="00" * 32, run="r"),
        keys.transcript(bundles, roster_hash="01" * 32, run="r"),
        keys.transcript(bundles, roster_hash="00" * 32, run="s"),
        keys.transcript({"a": b"y", "b": b"x"}, roster_hash="00" * 32, run="r"),
        keys.transcript({"a": b"x"}, roster_hash="00" * 32, run="r"),
        keys.transcript({"a": b"xb", "": b"y"}, roster_hash="00" * 32, run="r"),
    ]
    assert len(set(made)) == len(made)
    assert keys.transcript({"b": b"y", "a": b"x"}, roster_hash="00" * 32, run="r") == made[0]


def test_a_seal_is_bound_to_its_direction():
    assert keys.seal_info(b"t", sender="a", recipient="b") != keys.seal_info(b"t", sender="b", recipient="a")
    assert keys.seal_info(b"t", sender="a", recipient="bc") != keys.seal_info(b"t", sender="ab", recipient="c")


def test_lengths_keep_parts_apart():
    assert keys.length_prefixed_hash(b"ab", b"c") != keys.length_prefixed_hash(b"a", b"bc")
    assert keys.length_prefixed_hash() != keys.length_prefixed_hash(b"")
    assert keys.expand(b"k" * 32, b"ab", b"c") != keys.expand(b"k" * 32, b"a", b"bc")
    assert len(keys.expand(b"k" * 32, b"a", size=48)) == 48


def test_a_private_key_reads_back_from_its_pem():
    key = Ed25519PrivateKey.generate()
    assert keys.load_private_pem(keys.private_pem(key)).private_bytes_raw() == key.private_bytes_raw()


def pem(der):
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n"


def unknown_algorithm():
    der = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem(der.replace(bytes.fromhex("2b6570"), bytes.fromhex("2b6579")))


def encrypted():
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


def another_kind():
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 1000, pem(b""), pem(bytes(48)), unknown_algorithm(), encrypted(), another_kind()], ids=range(7)
)
def test_a_key_file_that_holds_something_else_is_refused(data):
    with pytest.raises(ConfigError, match="key file") as caught:
        keys.load_private_pem(data)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xed" + b"\xff" * 30 + b"\x7f"], ids=["0", "1", "p"])
def test_a_public_key_of_low_order_is_refused_when_it_is_read(point):
    keys.public_key(MINE.public_bytes())
    with pytest.raises(BadEnvelope, match="malformed"):
        keys.public_key(point + MINE.public_bytes()[32:])
