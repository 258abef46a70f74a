"""The ML-DSA-44 line beside Ed25519 on a checkpoint: asked for where the roster names its key, and found when it is changed."""

import base64
import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from common import enrolment
from common import roster as rosters
from common.audit import bundle, verify
from common.errors import RecordDamaged
from common.ledger import merkle, note, post_quantum
from common.ledger.note import Checkpoint
from common.roster import Member
from tests import ledgers
from tests.ledgers import GRAM, LEDGER_KEY, ORIGIN, Ask

PUBLIC = post_quantum.key_of(ORIGIN, key=LEDGER_KEY)
BODY = Checkpoint(origin=ORIGIN, size=3, root=merkle.leaf_hash(b"x"))


def signed(body=BODY, *, now=7):
    first = note.sign(body.text(), name=ORIGIN, key=LEDGER_KEY)
    return first + post_quantum.line(body, key=LEDGER_KEY, now=now).encode()


def roster_with_both():
    plain = ledgers.roster()
    members = tuple(replace(one, ledger_ml_dsa=PUBLIC.vkey) if one.name == "aalen" else one for one in plain.members)
    return rosters.sign(federation="demo", coordinator="lead", key=ledgers.key(9), members=members)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("post-quantum")
    plan = ledgers.study()
    with ledgers.create(folder / "ledger.sqlite") as ledger:
        ledger.release(Ask(number=1, mechanism=GRAM).to(ledger), sha256="a" * 64, size_bytes=1)
        bundle.write(
            folder / "aalen.zip",
            entries=ledger.entries(),
            checkpoint=ledger.checkpoint(ml_dsa=True),
            roster=roster_with_both().bytes(),
            studies={plan.hash(): plan.canonical_bytes()},
            hospital="aalen",
        )
    return bundle.read(folder / "aalen.zip")


def test_the_signed_message_is_that_of_the_format():
    post_quantum.verify(signed(), key=PUBLIC)
    (raw,) = (raw for name, raw in note.split(signed())[1] if raw[:4] == PUBLIC.id)
    origin = ORIGIN.encode()
    message = b"subtree/v1\n\0" + bytes([len(origin)]) + origin + struct.pack(">Q", 7) + bytes([len(origin)]) + origin
    message += struct.pack(">QQ", 0, 3) + BODY.root
    assert (raw[4:12], len(raw)) == (struct.pack(">Q", 7), 4 + 8 + 2420)
    MLDSA44PublicKey.from_public_bytes(PUBLIC.public).verify(raw[12:], message)
    assert note.parse_key(PUBLIC.vkey) == PUBLIC


def test_a_tool_that_knows_ed25519_only_reads_the_same_note():
    assert note.verify(signed(), keys=[note.key_of(ORIGIN, key=LEDGER_KEY)]) == BODY.text()


def test_any_changed_bit_of_the_second_line_is_found():
    whole = signed()
    start = whole.rindex(b" ") + 1
    raw = bytearray(base64.b64decode(whole[start:-1]))
    for at in [*range(16), *range(16, len(raw), 97)]:
        spoiled = bytearray(raw)
        spoiled[at] ^= 1 << (at % 8)
        with pytest.raises(RecordDamaged):
            post_quantum.verify(whole[:start] + base64.b64encode(spoiled) + b"\n", key=PUBLIC)


@pytest.mark.parametrize("lines", [[0], [0, 1, 1], [1]])
def test_a_line_that_is_missing_or_there_twice_is_refused(lines):
    text, _, both = signed().decode().partition("\n\n")
    have = both.splitlines(keepends=True)
    changed = f"{text}\n\n{''.join(have[at] for at in lines)}".encode()
    wrong = (
        (lambda: note.verify(changed, keys=[note.key_of(ORIGIN, key=LEDGER_KEY)]))
        if 0 not in lines
        else (lambda: post_quantum.verify(changed, key=PUBLIC))
    )
    with pytest.raises(RecordDamaged):
        wrong()


def test_another_keys_line_and_another_trees_line_are_refused():
    with pytest.raises(RecordDamaged):
        post_quantum.verify(signed(), key=post_quantum.key_of(ORIGIN, key=ledgers.key(8)))
    other = replace(BODY, size=4)
    moved = note.sign(other.text(), name=ORIGIN, key=LEDGER_KEY) + signed().splitlines(keepends=True)[-1]
    with pytest.raises(RecordDamaged):
        post_quantum.verify(moved, key=PUBLIC)
    with pytest.raises(RecordDamaged):
        post_quantum.verify(signed(), key=note.key_of(ORIGIN, key=LEDGER_KEY))  # the other kind of key


def test_a_bundle_with_both_lines_verifies_and_one_that_lost_the_second_does_not(made):
    verify.verify(made, roster_hash=roster_with_both().hash())
    stripped = b"".join(made.checkpoint.splitlines(keepends=True)[:-1])
    with pytest.raises(RecordDamaged, match="ML-DSA-44"):
        verify.verify(replace(made, checkpoint=stripped), roster_hash=None)


def test_a_bundle_from_before_still_verifies_and_takes_no_line_that_nobody_can_check(made):
    first = b"".join(made.checkpoint.splitlines(keepends=True)[:-1])
    before = replace(made, roster=ledgers.roster().bytes(), checkpoint=first)
    verify.verify(before, roster_hash=ledgers.roster().hash())
    with pytest.raises(RecordDamaged, match="does not name"):
        verify.verify(replace(before, checkpoint=made.checkpoint), roster_hash=None)


def test_the_second_key_is_enrolled_and_a_roster_without_it_keeps_its_hash():
    member = roster_with_both().member("aalen")
    assert Member.from_plain(member.plain()) == member
    assert enrolment.parse(enrolment.request(member, key=ledgers.key(10))) == member
    assert "ledger_ml_dsa" not in ledgers.roster().member("aalen").plain()
