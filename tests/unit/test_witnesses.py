"""Witnesses: a ledger that was rolled back, forked or rewritten is refused, and what convicts it is kept and signed."""

import json
import shutil

import pytest

from client import config, session
from client.ledger import Ledger
from client.origin import ledger_origin
from client.witness import Memory
from common import wire
from common.audit import witnessed
from common.errors import BadEnvelope, LedgerRewritten, RecordDamaged
from common.ledger import note, witness
from server import witnesses
from server.rounds import Rounds
from server.run import begin
from server.setup import set_up
from server.witnesses import Witnesses
from tests import federation, ledgers
from tests.federation import HOSPITALS, kind

NOW = 1_795_340_123


def run(one, wanted):
    """Let every ledger grow, then a run of set-up and close alone: what a witness sees of it is what it sees of a whole one."""
    for vault in one.vaults.values():
        vault.ledger.refuse(code="E-REFUSED", study=None, round_number=None)
    number = len(list(one.folder.glob("run-*")))
    folder = one.folder / f"run-{number}"
    folder.mkdir()
    exchange = begin(study=wanted, roster=one.roster, key=one.key, carrier=one, folder=folder, run=f"run{number}")
    rounds = Rounds(exchange=exchange, keys=set_up(exchange))
    rounds.close()
    return rounds.members


def test_every_answer_carries_the_ledgers_checkpoint_and_the_end_of_a_run_is_cosigned_by_all(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)
    run(one, wanted)
    run(one, wanted)
    last = {}
    for name, data in one.sent:
        told = witness.told(wire.peek(data).body["ledger"])
        key = note.parse_key(one.roster.member(name).ledger_key)
        new = witness.checkpoint(told.checkpoint, key=key)
        if (
            name in last and new != last[name]
        ):  # every answer shows that the ledger grew out of the one that the coordinator saw before
            witness.check_grown(last[name], new, proof=told.proofs.get(last[name].size))
        last[name] = new
    lines = [json.loads(line) for line in (one.folder / "witnessed.jsonl").read_bytes().splitlines()]
    for name in HOSPITALS:
        newest = [line["note"] for line in lines if line["hospital"] == name and "path" in line][-1].encode()
        everybody = {federation.COORDINATOR, *HOSPITALS} - {name}
        assert set(witness.witnesses(newest, roster=one.roster, hospital=name)) == everybody
        assert one.vaults[name].memory.others.keys() == set(HOSPITALS) - {name}
        one.vaults[name].ledger.check_covers(one.vaults[name].memory.own.encode())


def test_a_vault_whose_ledger_is_shorter_than_what_was_seen_refuses_to_compute(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)
    home = one.homes["hosp-b"]
    run(one, wanted)
    one.vaults["hosp-b"].close()
    shutil.copy(home.ledger, home.folder / "backup.sqlite")
    memory = (home.state / "witnessed.json").read_bytes()
    one.vaults["hosp-b"] = one.open("hosp-b")
    run(one, wanted)
    one.vaults["hosp-b"].close()
    for path in (home.folder / "ledger.sqlite-wal", home.folder / "ledger.sqlite-shm"):
        path.unlink(missing_ok=True)
    shutil.copy(home.folder / "backup.sqlite", home.ledger)
    with pytest.raises(LedgerRewritten):  # at the start, by what the hospital itself remembers
        one.open("hosp-b")
    (home.state / "witnessed.json").write_bytes(memory)  # a whole restored backup: only others know
    one.vaults["hosp-b"] = one.open("hosp-b")
    before = len(one.sent)
    run(one, wanted)
    answers = [wire.peek(data) for name, data in one.sent[before:] if name == "hosp-b"]
    assert {answer.kind for answer in answers} == {"refusal"}
    assert {answer.body["code"] for answer in answers} == {"E-AUDIT-REWRITTEN"}


def other_branch(one, name, folder):
    """A ledger of the same hospital under its own key that says something else from its third entry on."""
    home = one.homes[name]
    key, origin = config.ledger_key(home), ledger_origin(name)
    forked = Ledger.create(folder / "forked.sqlite", origin=origin, key=key, clock=lambda: NOW)
    while forked.size() < one.vaults[name].ledger.size():
        forked.refuse(code="E-REFUSED", study=None, round_number=None)
    return forked


def test_a_forked_ledger_is_refused_with_evidence_that_convicts_offline(make_federation, tmp_path):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)
    run(one, wanted)
    forked = other_branch(one, "hosp-b", tmp_path)
    identity = config.identity_key(one.homes["hosp-b"])

    def lie(name, data):
        if name != "hosp-b" or kind(data) != "bundle":
            return data
        answer = wire.peek(data)
        told = {**answer.body, "ledger": forked.told(()).plain()}
        return wire.seal(wire.Envelope(**{f: getattr(answer, f) for f in answer.__slots__} | {"body": told}), key=identity)

    one.after = lie
    assert run(one, wanted) == ("hosp-a", "hosp-c", "hosp-d")
    (evidence,) = one.folder.glob("evidence-hosp-b-*.jsonl")
    notes = [json.loads(line)["note"].encode() for line in evidence.read_bytes().splitlines()]
    key = note.parse_key(one.roster.member("hosp-b").ledger_key)
    signed = [witness.checkpoint(text, key=key) for text in notes]
    assert signed[0] != signed[1], "both are signed by the hospital, and they cannot both be its ledger"
    forked.close()


class Hospital:
    """One ledger and what a coordinator is told of it."""

    def __init__(self, folder):
        self.ledger = ledgers.create(folder / "ledger.sqlite")
        self.path = folder / "witnessed.jsonl"
        self.witnesses = self.coordinator()

    def coordinator(self):
        return Witnesses(self.path, roster=ledgers.roster(), key=ledgers.key(9), clock=lambda: NOW)

    def tell(self, *sizes, **how):
        self.witnesses.take("aalen", self.ledger.told(sizes).plain(), **how)

    def passed(self):
        empty = note.Checkpoint(origin=ledgers.ORIGIN, size=0, root=bytes(32))
        text = self.witnesses.passed("aalen")
        return text.encode() if text else note.sign(empty.text(), name=ledgers.ORIGIN, key=ledgers.LEDGER_KEY)

    def grow(self):
        self.ledger.refuse(code="E-REFUSED", study=None, round_number=None)


@pytest.fixture
def hospital(tmp_path):
    made = Hospital(tmp_path)
    yield made
    made.ledger.close()


def test_growth_needs_a_proof_from_the_newest_that_was_seen(hospital):
    hospital.tell()
    first = hospital.ledger.size()
    hospital.grow()
    hospital.tell(first)
    hospital.grow()
    with pytest.raises(BadEnvelope):
        hospital.tell(first)  # a proof from an older one does not show that nothing between was rewritten
    assert not list(hospital.path.parent.glob("evidence-*")), "a proof that is missing convicts nobody"
    hospital.tell(first + 1)


def test_a_checkpoint_older_than_all_that_is_known_needs_no_proof_when_it_was_asked_for(hospital):
    early = hospital.ledger.told(()).plain()
    hospital.grow()
    hospital.tell()
    newest = hospital.passed()
    with pytest.raises(LedgerRewritten):
        hospital.witnesses.take("aalen", early)  # told as what the ledger is now
    hospital.witnesses.take("aalen", early, late=True)
    assert hospital.passed() == newest


def test_a_long_file_is_written_anew_at_start_and_still_convicts(hospital, monkeypatch):
    monkeypatch.setattr(witnesses, "LINES_MOST", 20)
    monkeypatch.setattr(witnesses, "CHECKPOINTS_KEPT", 5)
    hospital.tell()
    for _ in range(12):
        before = hospital.ledger.size()
        hospital.grow()
        hospital.tell(before)
        ends = {"aalen": hospital.ledger.told([note.parse_checkpoint(note.split(hospital.passed())[0]).size]).plain()}
        hospital.witnesses.cosign(ends)
    seen, links = hospital.witnesses.seen(["aalen"]), hospital.witnesses.cosign({})
    with hospital.path.open("ab") as file:
        file.write(b'{"hospital": "left", "note": "of a hospital that is gone"}\n')
    lines = hospital.path.read_bytes().splitlines()
    again = hospital.coordinator()
    shorter = hospital.path.read_bytes().splitlines()
    assert len(lines) > 20 > len(shorter)
    assert b'{"hospital": "left", "note": "of a hospital that is gone"}' in shorter
    assert (again.seen(["aalen"]), again.cosign({})) == (seen, links)
    assert hospital.coordinator().seen(["aalen"]) == seen, "and it is read again as it was written"
    forked = note.sign(
        note.Checkpoint(origin=ledgers.ORIGIN, size=hospital.ledger.size(), root=bytes(32)).text(),
        name=ledgers.ORIGIN,
        key=ledgers.LEDGER_KEY,
    )
    with pytest.raises(LedgerRewritten):
        again.take("aalen", {"checkpoint": forked.decode(), "proofs": []})


def test_the_same_answer_again_is_no_contradiction_and_an_older_unknown_one_is_unless_it_was_asked_for(hospital):
    first = hospital.ledger.told(())
    hospital.witnesses.take("aalen", first.plain())
    size = hospital.ledger.size()
    hospital.grow()
    late = hospital.ledger.told((size,)).plain()
    hospital.grow()
    hospital.tell(size)
    hospital.witnesses.take("aalen", first.plain())
    with pytest.raises(LedgerRewritten):
        hospital.witnesses.take("aalen", late)
    hospital.witnesses.take("aalen", late, late=True)


def test_what_was_seen_outlives_the_process_and_half_a_line_is_no_harm(hospital):
    hospital.tell()
    with hospital.path.open("ab") as file:
        file.write(b'{"hospital": "aal')
    again = hospital.coordinator()
    assert again.seen(["aalen"]) == hospital.witnesses.seen(["aalen"])
    before = hospital.ledger.size()
    hospital.grow()
    again.take("aalen", hospital.ledger.told([before]).plain())
    assert len(witnessed.read([hospital.path])["aalen"]) == 2, "the next line is whole, and an auditor reads them all"


def test_a_lost_file_is_made_up_from_the_journal(hospital):
    hospital.tell()
    seen = hospital.witnesses.seen(["aalen"])
    hospital.path.unlink()
    again = hospital.coordinator()
    assert again.resume([{"type": "start", "witnessed": {}}, {"type": "announced", "witnessed": seen}]) == {}
    assert again.seen(["aalen"]) == seen


@pytest.mark.parametrize(
    "said",
    [None, {}, [], {"checkpoint": 1, "proofs": []}, {"checkpoint": "x", "proofs": [{"from": -1, "path": []}]},
     {"checkpoint": "x", "proofs": [{"from": 1, "path": ["zz"]}]}, {"checkpoint": "x", "proofs": [{"from": 1}] * 9}],
)  # fmt: skip
def test_a_malformed_word_on_a_ledger_is_refused(said):
    with pytest.raises(BadEnvelope):
        witness.told(said)


def test_a_checkpoint_under_a_strange_key_or_another_name_is_refused(hospital):
    signed = note.sign(
        note.Checkpoint(origin=ledgers.ORIGIN, size=1, root=bytes(32)).text(), name=ledgers.ORIGIN, key=ledgers.key(7)
    )
    with pytest.raises(RecordDamaged):
        hospital.witnesses.take("aalen", {"checkpoint": signed.decode(), "proofs": []})


def test_a_cosignature_binds_name_time_and_checkpoint(hospital):
    signed, roster = hospital.ledger.checkpoint(), ledgers.roster()
    line = witness.cosign(signed, name="berlin", key=ledgers.key(11), now=NOW)
    held = witness.cosigned(signed, lines=[line, line])
    assert witness.witnesses(held, roster=roster, hospital="aalen") == {"berlin": NOW}
    assert note.verify(held, keys=[note.parse_key(hospital.ledger.verify_key)])  # others skip the line
    assert witness.own(held, key=note.parse_key(hospital.ledger.verify_key)) == signed
    strange = witness.cosign(signed, name="berlin", key=ledgers.key(12), now=NOW)
    assert witness.witnesses(witness.cosigned(signed, lines=[strange]), roster=roster, hospital="aalen") == {}
    hospital.grow()
    moved = witness.cosigned(hospital.ledger.checkpoint(), lines=[line])
    with pytest.raises(RecordDamaged):
        witness.witnesses(moved, roster=roster, hospital="aalen")


def test_a_vault_does_not_start_on_a_damaged_memory(make_federation):
    one = make_federation()
    one.vaults["hosp-a"].close()
    (one.homes["hosp-a"].state / "witnessed.json").write_text("{}")
    with pytest.raises(RecordDamaged):
        one.open("hosp-a")


def test_a_hospital_that_enrolled_anew_under_another_key_is_seen_for_the_first_time(hospital, tmp_path):
    roster, strange = ledgers.roster(), ledgers.key(44)
    old = note.sign(note.Checkpoint(origin=ledgers.ORIGIN, size=99, root=bytes(32)).text(), name=ledgers.ORIGIN, key=strange)
    with hospital.path.open("ab") as file:
        file.write(json.dumps({"hospital": "aalen", "note": old.decode()}).encode() + b"\n")
    again = hospital.coordinator()
    assert again.seen(["aalen"]) == {}
    again.resume([{"type": "start", "witnessed": {"aalen": old.decode()}}])
    again.take("aalen", hospital.ledger.told(()).plain())
    links = again.cosign({"aalen": hospital.ledger.told(()).plain()})
    memory = Memory(others={"aalen": old.decode()})
    after, lines = memory.cosign(
        links, me="berlin", ledger=hospital.ledger, roster=roster, key=ledgers.key(11), now=NOW, evidence=tmp_path
    )
    assert (set(lines), after.others["aalen"]) == ({"aalen"}, links["aalen"][-1]["note"])
    again.cosigned("berlin", lines)


def test_a_hospital_that_was_away_follows_the_links_and_refuses_a_break_in_them(hospital, tmp_path):
    roster, ends = ledgers.roster(), []
    for _ in range(3):
        size = ends[-1] if ends else 0
        hospital.tell(*([size] if size else []))
        links = hospital.witnesses.cosign({"aalen": hospital.ledger.told([size]).plain()})
        ends.append(hospital.ledger.size())
        hospital.grow()
    given = {
        "me": "berlin",
        "ledger": hospital.ledger,
        "roster": roster,
        "key": ledgers.key(11),
        "now": NOW,
        "evidence": tmp_path,
    }
    behind = Memory(others={"aalen": links["aalen"][0]["note"]})
    after, lines = behind.cosign(links, **given)
    assert after.others["aalen"] == links["aalen"][2]["note"]
    assert set(lines) == {"aalen"}
    assert after.cosign(links, **given)[1] == {}, "nothing new, nothing to sign"
    assert behind.cosign({"aalen": links["aalen"][2:]}, **given)[1] == {}, "a link is missing: not cosigned"
    broken = [{**links["aalen"][1], "path": links["aalen"][2]["path"]}]
    assert behind.cosign({"aalen": broken}, **given) == (behind, {}), "not cosigned, nor remembered"
    assert list(tmp_path.glob("evidence-aalen-*.jsonl"))
    for junk in (7, [], {"aalen": [{}]}, {"aalen": [{"note": 1, "from": 0, "path": []}]}):
        with pytest.raises((BadEnvelope, RecordDamaged)):
            behind.cosign(junk, **given)


def test_a_rolled_back_vault_erases_its_keys_at_the_end_before_it_refuses(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)
    vault = one.vaults["hosp-a"]
    folder = one.folder / "run-0"
    folder.mkdir()
    exchange = begin(study=wanted, roster=one.roster, key=one.key, carrier=one, folder=folder, run="run0")
    set_up(exchange)
    key = config.ledger_key(one.homes["hosp-a"])
    longer = note.Checkpoint(origin=vault.ledger.told(()).checkpoint.decode().split("\n")[0], size=10**6, root=bytes(32))
    shown = note.sign(longer.text(), name=longer.origin, key=key).decode()
    request = exchange.seal("close", "hosp-a", {"outcomes": {}, "witnessed": [shown]})
    answer = wire.peek(vault.answer(request.whole()))
    assert (answer.kind, answer.body["code"]) == ("refusal", "E-AUDIT-REWRITTEN")
    assert session.load(one.homes["hosp-a"].state, run="run0").setup_key == b""


def test_a_ledger_that_grows_between_the_two_questions_of_a_close_is_no_contradiction(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)

    def before(name, data):
        if kind(data) == "close":
            one.vaults[name].ledger.refuse(code="E-REFUSED", study=None, round_number=None)
        return data

    one.before = before
    run(one, wanted)
    assert not list(one.folder.glob("evidence-*"))
    assert one.vaults["hosp-a"].memory.others.keys() == set(HOSPITALS) - {"hosp-a"}
