"""Attacks on witnesses: one hospital of ill will, or an honest change at a bad moment, convicts and blocks nobody else."""

import base64
import json
import shutil

import pytest

from client.witness import Memory
from common.errors import BadEnvelope
from common.ledger import note, witness
from common.ledger.note import DASH
from server.rounds import Rounds
from server.run import begin
from server.setup import set_up
from server.witnesses import Witnesses
from tests import federation, ledgers
from tests.federation import HOSPITALS, kind

NOW = 1_795_340_123
STRANGERS = "".join(f"{DASH}{letter} {base64.b64encode(bytes(5)).decode()}\n" for letter in "abcdefghijklmnopqrstuvwxyz" * 2)


class Two:
    """The ledger of `aalen`, the coordinator that witnesses it, and what `berlin` remembers."""

    def __init__(self, folder):
        self.ledger, self.folder = ledgers.create(folder / "ledger.sqlite"), folder
        self.witnesses = self.coordinator()
        self.memory = Memory()

    def coordinator(self):
        return Witnesses(self.folder / "witnessed.jsonl", roster=ledgers.roster(), key=ledgers.key(9), clock=lambda: NOW)

    def told(self, *sizes):
        return self.ledger.told(sizes).plain()

    def end(self, told):
        """End a run with what `aalen` says; let `berlin` cosign, and return its lines."""
        self.witnesses.take("aalen", told)
        links = self.witnesses.cosign({"aalen": told})
        given = {"ledger": self.ledger, "roster": ledgers.roster(), "key": ledgers.key(11), "now": NOW, "evidence": self.folder}
        self.memory, lines = self.memory.cosign(links, me="berlin", **given)
        return lines

    def grow(self):
        before = self.ledger.size()
        self.ledger.refuse(code="E-REFUSED", study=None, round_number=None)
        return before


@pytest.fixture
def two(tmp_path):
    made = Two(tmp_path)
    yield made
    made.ledger.close()


def held_by(two, name="aalen"):
    return witness.witnesses(two.witnesses.passed(name).encode(), roster=ledgers.roster(), hospital=name)


@pytest.mark.parametrize("lie", ["junk proof", "older again"])
def test_a_link_that_other_hospitals_could_not_follow_is_not_passed_on(two, lie):
    two.end(two.told())
    first = two.ledger.size()
    two.grow()
    between = two.told(first)
    two.witnesses.take("aalen", between)
    if lie == "older again":
        told = {"checkpoint": two.told()["checkpoint"], "proofs": []}
        two.grow()
        two.witnesses.take("aalen", two.told(first + 1))
        told["proofs"] = [{"from": 0, "path": []}, {"from": first, "path": ["00" * 32]}]
    else:
        two.grow()
        told = two.told(first, first + 1)
        told["proofs"][0]["path"] = ["00" * 32]
    assert two.end(told) == {}
    two.grow()
    assert two.end(two.told(first, two.ledger.size() - 1)).keys() == {"aalen"}, "the next honest end is cosigned"
    assert not list(two.folder.glob("evidence-*"))


def lines_of_ill_will(two):
    signed = two.witnesses.passed("aalen").encode()
    honest = witness.cosign(signed, name="berlin", key=ledgers.key(11), now=NOW)
    _, own = note.split(signed)
    name, raw = own[0]
    forged = f"{DASH}{name} {base64.b64encode(raw[:4] + bytes(64)).decode()}\n"
    other = signed.decode() + "\n"
    moved = note.line(
        note.Key(name="berlin", kind=witness.COSIGNATURE, public=ledgers.key(11).public_key().public_bytes_raw()),
        NOW.to_bytes(8, "big") + ledgers.key(11).sign(f"cosignature/v1\ntime {NOW}\n{other[:-1]}".encode()),
    )
    return {
        "a false line in the ledger's own name": honest + forged,
        "lines of strangers": honest + STRANGERS[:600],
        "another text": "\n" + moved,
        "nothing": "",
        "no line": honest[:-1],
    }


@pytest.mark.parametrize(
    "what",
    ["a false line in the ledger's own name", "lines of strangers", "another text", "nothing", "no line"],
)
def test_a_cosignature_is_one_line_of_its_hospital_and_nothing_else(two, what):
    two.end(two.told())
    before = two.witnesses.passed("aalen")
    with pytest.raises(BadEnvelope):
        two.witnesses.cosigned("berlin", {"aalen": lines_of_ill_will(two)[what]})
    assert two.witnesses.passed("aalen") == before
    two.witnesses.cosigned("berlin", {"aalen": witness.cosign(before.encode(), name="berlin", key=ledgers.key(11), now=NOW)})
    again = two.witnesses.passed("aalen")
    with pytest.raises(BadEnvelope):
        two.witnesses.cosigned("berlin", {"aalen": lines_of_ill_will(two)[what]})
    later = witness.cosign(before.encode(), name="berlin", key=ledgers.key(11), now=NOW + 1)
    two.witnesses.cosigned("berlin", {"aalen": later})
    assert (two.witnesses.passed("aalen"), held_by(two)) == (again, held_by(two)), "who cosigned once has cosigned"
    assert two.coordinator().passed("aalen") == again


def test_lines_that_a_hospital_adds_to_its_checkpoint_are_neither_kept_nor_passed_on(two):
    told = two.told()
    own = told["checkpoint"].split("\n\n")[1]
    told["checkpoint"] += own * 11 + STRANGERS
    assert two.end(told).keys() == {"aalen"}
    assert all(len(line) < 1000 for line in (two.folder / "witnessed.jsonl").read_bytes().splitlines())


def test_one_hospitals_broken_ledger_does_not_keep_the_others_from_being_cosigned(two):
    two.end(two.told())
    first, seen = two.ledger.size(), two.memory.others["aalen"]
    two.grow()
    link = {"note": two.told()["checkpoint"], "from": first, "path": ["00" * 32]}
    after, lines = two.memory.cosign(
        {"aalen": [link], "berlin": [{"note": two.told()["checkpoint"], "from": 0, "path": []}]},
        me="berlin",
        ledger=two.ledger,
        roster=ledgers.roster(),
        key=ledgers.key(11),
        now=NOW,
        evidence=two.folder,
    )
    assert (lines, after.others["aalen"]) == ({}, seen)
    assert after.own == two.told()["checkpoint"], "what followed it was looked at too"
    assert list(two.folder.glob("evidence-aalen-*.jsonl"))


def test_a_coordinator_cannot_make_a_hospital_forget_what_was_seen_of_its_own_ledger(two):
    older = two.told()["checkpoint"]
    two.grow()
    newer = two.told()["checkpoint"]
    given = {"ledger": two.ledger, "roster": ledgers.roster(), "key": ledgers.key(11), "now": NOW, "evidence": two.folder}
    after, _ = Memory(own=newer).cosign({"berlin": [{"note": older}]}, me="berlin", **given)
    assert after.own == newer


def test_a_hospital_whose_policy_changes_during_set_up_is_not_convicted(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)

    def before(name, data):
        if name == "hosp-b" and kind(data) == "keys":
            one.vaults[name].ledger.refuse(code="E-REFUSED", study=None, round_number=None)
        return data

    one.before = before
    folder = one.folder / "run-0"
    folder.mkdir()
    given = {"study": wanted, "roster": one.roster, "key": one.key, "carrier": one, "folder": folder, "run": "run0"}
    assert set_up(begin(**given)).members == HOSPITALS
    assert not list(one.folder.glob("evidence-*"))
    shutil.rmtree(folder / "rounds" / "sealed")
    one.before = lambda _name, data: data
    assert set_up(begin(**given)).members == HOSPITALS, "another life asks the same, and gets the same answers"


def test_a_coordinator_restored_from_a_backup_takes_up_the_links_where_hospitals_stand(two):
    two.end(two.told())
    backup = (two.folder / "witnessed.jsonl").read_bytes()
    first = two.grow()
    assert two.end(two.told(first)).keys() == {"aalen"}
    for lost in (backup, b""):
        (two.folder / "witnessed.jsonl").write_bytes(lost)
        two.witnesses = two.coordinator()
        two.grow()
        two.witnesses.recall("berlin", two.memory.others)
        seen = note.parse_checkpoint(note.split(two.witnesses.passed("aalen").encode())[0]).size
        two.end(two.told(*([first, seen] if lost else [seen])))
        two.grow()
        last = note.parse_checkpoint(note.split(two.witnesses.passed("aalen").encode())[0]).size
        two.witnesses = two.coordinator()
        newest = two.ledger.size() - 1
        assert two.end(two.told(last, newest)).keys() == {"aalen"}
        assert two.memory.others["aalen"] == two.witnesses.passed("aalen")


@pytest.mark.parametrize(
    "held", [None, [], {"aalen": 7}, {"aalen": "x"}, {"aalen": "\ud800"}, {"berlin": "x"}, {"nobody": "x"}]
)
def test_what_a_hospital_says_it_holds_of_others_counts_only_when_they_signed_it(two, held):
    two.end(two.told())
    before = two.witnesses.passed("aalen")
    strange = note.sign(
        note.Checkpoint(origin=ledgers.ORIGIN, size=9, root=bytes(32)).text(), name=ledgers.ORIGIN, key=ledgers.key(7)
    )
    two.grow()
    for said in (held, {"aalen": strange.decode()}, {"aalen": before}):
        two.witnesses.recall("berlin", said)
    two.witnesses.recall("aalen", {"aalen": two.told()["checkpoint"]})
    assert two.witnesses.passed("aalen") == before


def test_after_a_restored_coordinator_all_cosign_again_from_the_second_run_on(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)

    def run(number):
        for vault in one.vaults.values():
            vault.ledger.refuse(code="E-REFUSED", study=None, round_number=None)
        folder = one.folder / f"run-{number}"
        folder.mkdir()
        given = {"study": wanted, "roster": one.roster, "key": one.key, "carrier": one, "folder": folder, "run": f"run{number}"}
        exchange = begin(**given)
        Rounds(exchange=exchange, keys=set_up(exchange)).close()
        lines = [json.loads(line) for line in (one.folder / "witnessed.jsonl").read_bytes().splitlines()]
        newest = {line["hospital"]: line["note"].encode() for line in lines if "path" in line}
        size = one.vaults["hosp-b"].ledger.check_covers(witness.own(newest["hosp-b"], key=key))
        return size, set(witness.witnesses(newest["hosp-b"], roster=one.roster, hospital="hosp-b"))

    key = note.parse_key(one.roster.member("hosp-b").ledger_key)
    everybody = {federation.COORDINATOR, *HOSPITALS} - {"hosp-b"}
    run(0)
    backup = (one.folder / "witnessed.jsonl").read_bytes()
    last = run(1)
    (one.folder / "witnessed.jsonl").write_bytes(backup)
    assert run(2)[0] == last[0], "the links end where hospitals stand"
    after = run(3)
    assert after[0] > last[0]
    assert after[1] == everybody
    assert not list(one.folder.glob("evidence-*"))
