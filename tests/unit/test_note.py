"""Signed notes and checkpoints: the C2SP vector, an independent library, and every way to spoil one."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tlog_scales import signing, tlog

from common import canonical
from common.errors import RecordDamaged
from common.ledger import merkle, note

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "notes.json").read_text())
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = VECTORS["ledger"]["origin"]
PUBLIC = note.key_of(ORIGIN, key=KEY)
SIGNED = note.sign(note.Checkpoint(origin=ORIGIN, size=3, root=merkle.EMPTY).text(), name=ORIGIN, key=KEY)


def test_the_published_note_verifies():
    key = note.parse_key(VECTORS["vkey"])
    assert note.verify(VECTORS["note"].encode(), keys=[key]) == VECTORS["text"]
    assert key.vkey == VECTORS["vkey"]


def test_the_ledger_that_the_go_verifier_accepted_has_the_same_root_and_key():
    lines = [canonical.encode({"seq": number, "type": "reserve", "x": "é"}) for number in range(1000)]
    assert merkle.root([merkle.leaf_hash(line) for line in lines]).hex() == VECTORS["ledger"]["root"]
    assert PUBLIC.vkey == VECTORS["ledger"]["vkey"]


def test_an_independent_library_reads_our_checkpoint_and_we_read_its():
    tlog.Checkpoint.from_text(SIGNED.decode()).verify(signing.Vkey.from_string(PUBLIC.vkey))
    theirs = tlog.Checkpoint.make_signed(ORIGIN, 3, merkle.EMPTY, [signing.PlainEd25519Signer(ORIGIN, KEY)]).serialize()
    assert theirs.encode() == SIGNED
    text = note.verify(theirs.encode(), keys=[PUBLIC])
    assert note.parse_checkpoint(text) == note.Checkpoint(origin=ORIGIN, size=3, root=merkle.EMPTY)


def test_every_flipped_bit_is_found():
    for at in range(len(SIGNED)):
        for bit in range(8):
            spoiled = bytearray(SIGNED)
            spoiled[at] ^= 1 << bit
            with pytest.raises(RecordDamaged):
                note.verify(bytes(spoiled), keys=[PUBLIC])


def test_every_truncation_is_found():
    for size in range(len(SIGNED)):
        with pytest.raises(RecordDamaged):
            note.verify(SIGNED[:size], keys=[PUBLIC])


def test_unknown_keys_are_skipped_and_a_failing_known_key_refuses_all():
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    stranger = note.sign(SIGNED.decode().split("\n\n")[0] + "\n", name="other.example", key=other)
    both = SIGNED + stranger.split(b"\n\n")[1]
    assert note.verify(both, keys=[PUBLIC]).startswith(ORIGIN)
    bad_line = f"{note.DASH}other.example {base64.b64encode(note.key_of('other.example', key=other).id + bytes(64)).decode()}\n"
    with pytest.raises(RecordDamaged, match="does not hold"):
        note.verify(SIGNED + bad_line.encode(), keys=[PUBLIC, note.key_of("other.example", key=other)])
    with pytest.raises(RecordDamaged, match="expected key"):
        note.verify(stranger, keys=[PUBLIC])


def test_too_many_signatures_and_a_huge_note_are_refused():
    line = SIGNED.split(b"\n\n")[1]
    with pytest.raises(RecordDamaged, match="too many"):
        note.verify(SIGNED + line * 64, keys=[PUBLIC])
    with pytest.raises(RecordDamaged, match="too long"):
        note.verify(SIGNED + line * 1000, keys=[PUBLIC])


@pytest.mark.parametrize(
    "text", ["", "a\n1\n", "a\n01\nAAAA\n", "a\n1\nAAAA\n", "a\n-1\n\n", "\n1\n\n", "a\n" + "9" * 5000 + "\n\n", "a\n²\n\n"]
)
def test_a_malformed_checkpoint_is_refused(text):
    with pytest.raises(RecordDamaged):
        note.parse_checkpoint(text)


@pytest.mark.parametrize(
    "text", ["", "a", "a+b", "a+00000000+AA==", "+00000000+AQ==", VECTORS["vkey"][:-4], VECTORS["vkey"].replace("530d", "530e")]
)
def test_a_malformed_key_is_refused(text):
    with pytest.raises(RecordDamaged):
        note.parse_key(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\x07", "x" * 256])
def test_a_name_that_the_format_cannot_hold_is_refused(name):
    with pytest.raises(RecordDamaged):
        note.key_of(name, key=KEY)


@pytest.mark.parametrize("text", ["no newline", "", "\n", "bell\x07\n"])
def test_a_text_that_the_format_cannot_hold_is_not_signed(text):
    with pytest.raises(RecordDamaged):
        note.sign(text, name=ORIGIN, key=KEY)
