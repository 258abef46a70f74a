"""What an auditor does beyond verifying: proofs of an entry, reconciling with the coordinator, witnesses, the page."""

import errno
import hashlib
import json
from decimal import Decimal

import pytest

from common import files, wire
from common.audit import accountants, bundle, page, page_html, proof, recompute, report, verify
from common.errors import LedgerRewritten, RecordDamaged, Unwitnessed
from common.ledger import accounting, note, witness
from common.wire import Envelope
from tests import ledgers
from tests.commands import audit
from tests.ledgers import DELTA, GRAM, Ask, share

KEY = note.key_of(ledgers.ORIGIN, key=ledgers.LEDGER_KEY)


def upload(number, *, size=64, run="run"):
    """What aalen sent in a round, signed."""
    envelope = Envelope(kind="upload", sender="aalen", recipient="lead", run=run, body={"round": number}, blob=bytes(size))
    return wire.seal(envelope, key=ledgers.key(10))


def run_of(folder, *mechanisms):
    """A ledger of these releases, its bundle, and the run's folder as the coordinator keeps it."""
    run = folder / "the-run"
    events = [{"type": "start", "run": "run"}]
    with ledgers.create(folder / "ledger.sqlite") as ledger:
        for number, mechanism in enumerate(mechanisms, start=1):
            receipt, sent = Ask(number=number, mechanism=mechanism).to(ledger), upload(number)
            ledger.release(receipt, sha256=hashlib.sha256(sent).hexdigest(), size_bytes=len(sent))
            place = run / "rounds" / f"{number:06d}"
            place.mkdir(parents=True)
            (place / "aalen.envelope").write_bytes(sent)
            events.append({"type": "round", "round": number, "uploaded": ["aalen"], "state": "opened"})
        ledgers.export(folder / "aalen.zip", ledger)
        notes = [ledger.checkpoint()]
        ledger.refuse(code="E-REFUSED", study=None, round_number=None)
        notes.append(ledger.checkpoint())
    write(run, events)
    return folder, events, notes


@pytest.fixture
def made(tmp_path):
    """A run of one exact sum and three steps."""
    return run_of(tmp_path, GRAM, share(), share(), share())


@pytest.fixture
def exact(tmp_path):
    """A run of four exact sums, for what has nothing to do with the accountants, which take their time."""
    return run_of(tmp_path, GRAM, GRAM, GRAM, GRAM)


def write(run, events):
    (run / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_both_sides_of_a_run_agree(made):
    folder, _, _ = made
    done = audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {
        "compared": [{"run": "run", "hospital": "aalen", "agreed": 4, "lost": []}],
        "runs_without_a_folder": [],
        "hospitals_without_a_bundle": ["berlin", "cadiz"],
    }
    assert audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run").returncode == 0
    assert audit("reconcile", folder / "aalen.zip", "--run", folder).returncode == 64


@pytest.mark.parametrize("what", ["a round that no ledger knows", "other bytes in a known round"])
def test_an_upload_that_no_ledger_declares_ends_with_five(exact, what):
    folder, events, _ = exact
    number = 5 if what.startswith("a round") else 2
    place = folder / "the-run" / "rounds" / f"{number:06d}"
    place.mkdir(exist_ok=True)
    (place / "aalen.envelope").write_bytes(upload(number, size=65))
    write(folder / "the-run", [*events, {"type": "round", "round": 5, "uploaded": ["aalen"], "state": "opened"}])
    done = audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run")
    assert done.returncode == 5
    assert f"round {number}" in done.stderr


def test_an_upload_that_the_coordinator_hides_is_found_and_one_that_was_lost_is_told(exact):
    folder, events, _ = exact
    (folder / "the-run" / "rounds" / "000003" / "aalen.envelope").unlink()
    assert audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run").returncode == 1
    lost = [*events[:3], {"type": "round", "round": 3, "uploaded": [], "state": "void"}, *events[4:]]
    write(folder / "the-run", lost)
    done = audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run", "--json")
    assert json.loads(done.stdout)["compared"][0]["lost"] == [3]
    write(folder / "the-run", [*events[:3], *events[4:]])  # the whole round is gone from the journal
    assert audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run").returncode == 1


def test_an_upload_that_the_hospital_never_signed_convicts_nobody(exact):
    folder, _, _ = exact
    path = folder / "the-run" / "rounds" / "000002" / "aalen.envelope"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run").returncode == 1


def test_one_entry_is_proven_without_the_others(made):
    folder, _, _ = made
    read = bundle.read(folder / "aalen.zip")
    for seq in range(len(read.entries)):
        assert proof.verify(proof.prove(read, seq=seq), key=KEY).event.seq == seq
    target = folder / "entry.tlog-proof"
    assert audit("prove", folder / "aalen.zip", 3, "--out", target).returncode == 0
    done = audit("verify-proof", target, "--key", KEY.vkey, "--json")
    assert (done.returncode, json.loads(done.stdout)["type"]) == (0, "reserve")
    assert audit("prove", folder / "aalen.zip", 99, "--out", target).returncode == 64
    wrong = audit("verify-proof", target, "--key", "no-vkey")
    assert (wrong.returncode, "roster.json" in wrong.stderr) == (64, True)  # the option is wrong, not the record
    other = note.key_of(ledgers.ORIGIN, key=ledgers.key(8)).vkey
    assert audit("verify-proof", target, "--key", other).returncode == 1
    data = target.read_bytes()
    for at in range(0, len(data), 7):
        with pytest.raises(RecordDamaged):
            proof.verify(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], key=KEY)


def witnessed(path, *notes):
    path.write_text("".join(json.dumps({"hospital": "aalen", "note": text.decode()}) + "\n" for text in notes))
    return path


def test_a_cosigned_bundle_says_who_saw_it_and_too_few_witnesses_end_with_three(exact):
    folder, _, (first, _) = exact
    seen = witness.cosigned(first, lines=[witness.cosign(first, name="lead", key=ledgers.key(9), now=7)])
    path = witnessed(folder / "witnessed.jsonl", seen)
    one = folder / "aalen.zip"
    done = audit("verify", one, "--witnessed", path, "--witnesses", 1, "--json")
    (told,) = json.loads(done.stdout)
    assert (done.returncode, told["witnesses"], told["witnessed_entries"]) == (0, ["lead"], told["entries"])
    assert audit("verify", one, "--witnessed", path, "--witnesses", 2).returncode == 3
    assert audit("verify", one, "--witnesses", 1).returncode == 3
    assert audit("verify", one, "--witnessed", folder / "nothing").returncode == 64


def test_a_bundle_older_than_what_was_seen_ends_with_three(exact):
    folder, _, (_, later) = exact
    with pytest.raises(Unwitnessed):
        verify.verify(bundle.read(folder / "aalen.zip"), roster_hash=None, notes=[later])


def test_a_rewritten_ledger_is_convicted_by_its_own_signature(exact, tmp_path):
    folder, _, (first, _) = exact
    read = bundle.read(folder / "aalen.zip")
    with ledgers.create(tmp_path / "another.sqlite") as other:  # the same hospital and key, other entries
        while other.size() < len(read.entries):
            other.refuse(code="E-REFUSED", study=None, round_number=None)
        ledgers.export(tmp_path / "another.zip", other)
        forked = other.checkpoint()
    with pytest.raises(LedgerRewritten, match="rewritten after"):
        verify.verify(bundle.read(tmp_path / "another.zip"), roster_hash=None, notes=[first])
    with pytest.raises(LedgerRewritten, match="two different ledgers"):
        verify.verify(read, roster_hash=None, notes=[first, forked])
    strangers = note.sign(note.split(forked)[0], name=ledgers.ORIGIN, key=ledgers.key(8))
    assert verify.verify(read, roster_hash=None, notes=[strangers]).witnesses == ()  # no stranger convicts


def test_accountants_agree_on_the_entries_alone(made):
    folder, _, _ = made
    done = audit("recompute", folder / "aalen.zip", "--json")
    (told,) = json.loads(done.stdout)
    assert told["rdp"] == str(accounting.round_up(accounting.epsilon_rdp([share()] * 3, delta=DELTA)))
    assert abs(Decimal(told["pld"]) - Decimal(told["pld_independent"])) < Decimal("5e-5")
    assert told["closed_form"] is None  # batches were drawn
    assert list(told["by_study"].values()) == [told["rdp"]]


def test_the_profile_passes_through_its_own_epsilon_and_is_the_closed_form_without_sampling():
    steps = [recompute.Step(sigma=4.0, rate=1.0, count=9)]
    epsilon = recompute.epsilon(steps, delta=1e-5, grid=1e-3)
    at_zero, there = recompute.profile(steps, epsilons=[0.0, epsilon], grid=1e-3)
    assert there == pytest.approx(1e-5, rel=1e-2)
    assert at_zero == pytest.approx(accountants.gaussian_delta(0.0, mu=0.75), abs=1e-3)
    assert recompute.profile([], epsilons=[0.0], grid=1e-3) == [0.0]


@pytest.mark.parametrize("language", page.LANGUAGES)
def test_the_page_is_the_same_every_time_and_runs_nothing_foreign(made, language):
    folder, _, _ = made
    read = bundle.read(folder / "aalen.zip")
    verdict = verify.verify(read, roster_hash=None)
    facts = [report.facts(read, verdict) for _ in range(2)]
    pages = [page_html.render(page.page(one, language=language)) for one in facts]
    assert pages[0] == pages[1]
    told = facts[0].values
    assert 50 <= told["right_of_100"] <= 100
    assert [row["statistic"] for row in told["exact"]] == ["gram"]
    assert [count for count, _ in told["burn_down"]] == [1, 2, 3]
    epsilons = [Decimal(row["add-or-remove-one"]) for row in told["neighbours"]]
    assert epsilons == sorted(epsilons), "more colluders know more of the noise"
    assert epsilons[told["colluders_planned"]] == pytest.approx(Decimal(told["rdp"]), rel=Decimal("1e-4"))
    for text in (
        "gram",
        verdict.root,
        "motet-audit verify aalen.bundle.zip",
        "pip install -c deploy/constraints.txt .\n",  # never a name that anybody may register
        "<code>motet-audit attack conformance</code>",
        "<svg",
        hashlib.sha256(report.plain(facts[1])).hexdigest(),
    ):
        assert text in pages[0]
    assert not [word for word in ("<script", "http", "src=", "{{", "{%", "None") if word in pages[0]]


def test_every_text_is_there_in_both_languages():
    texts = json.loads(page.Path(page.__file__).with_name("messages.json").read_bytes())
    for key, by_language in texts.items():
        assert set(by_language) == set(page.LANGUAGES), key
        assert type(by_language["en"]) is type(by_language["zh"]), key


def test_the_commands_write_page_and_record(made):
    folder, _, _ = made
    assert audit("report", folder / "aalen.zip", "--out", folder / "pages", "--lang", "zh").returncode == 0
    assert sorted(path.name for path in (folder / "pages").iterdir()) == ["aalen.html", "aalen.json", "aalen.pdf"]
    assert audit("report", folder / "aalen.zip", "--out", folder / "pages", "--lang", "xx").returncode == 64
    (told,) = json.loads(audit("registry", folder / "aalen.zip").stdout)
    assert (told["curator"], told["parameters"]["releases"], len(told["unprotected_quantities"])) == ("aalen", 3, 1)


def test_reconcile_says_whose_bundle_was_not_given_and_that_the_roster_was_not_pinned(exact):
    folder, _, _ = exact
    done = audit("reconcile", folder / "aalen.zip", "--run", folder / "the-run")
    others = sorted(set(ledgers.HOSPITALS) - {"aalen"})
    assert f"No bundle was given of {', '.join(others)}" in done.stdout
    assert "The roster was not pinned" in done.stderr


@pytest.mark.parametrize("command", ["recompute", "registry", "reconcile", "report"])
def test_the_bundle_that_does_not_hold_is_named_and_a_malformed_hash_is_a_usage_error(exact, command):
    folder, _, _ = exact
    rest = {"reconcile": ["--run", folder / "the-run"], "report": ["--out", folder / "pages"]}.get(command, [])
    (folder / "torn.zip").write_bytes((folder / "aalen.zip").read_bytes()[:-5])
    torn = audit(command, folder / "torn.zip", *rest)
    assert (torn.returncode, torn.stderr.startswith("torn.zip: ")) == (1, True)
    assert audit(command, folder / "aalen.zip", *rest, "--roster-hash", "abc").returncode == 64


def test_help_names_the_exit_codes_of_an_attack_that_succeeds_and_of_a_full_disk():
    said = " ".join(audit("--help").stdout.split())
    assert "6 of `attack`" in said
    assert "10 what is printed cannot be written" in said


def test_what_cannot_be_written_is_said_and_nothing_is_overwritten(exact, monkeypatch):
    folder, _, _ = exact
    kept = folder / "kept"
    kept.write_bytes(b"mine")
    assert audit("prove", folder / "aalen.zip", 1, "--out", kept).returncode == 64
    assert kept.read_bytes() == b"mine"
    assert audit("prove", folder / "aalen.zip", 1, "--out", kept / "inside").returncode == 64
    done = audit("report", folder / "aalen.zip", "--json", "--out", kept / "inside")
    assert (done.returncode, "cannot be written" in done.stderr) == (64, True)

    def full(_path, _data, **_how):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_new", full)
    done = audit("prove", folder / "aalen.zip", 1, "--out", folder / "new")
    assert (done.returncode, "No space left on device" in done.stderr) == (64, True)


def test_a_page_can_be_asked_for_alone(made):
    folder, _, _ = made
    assert audit("report", folder / "aalen.zip", "--pdf", "--out", folder / "pages").returncode == 0
    assert [path.name for path in (folder / "pages").iterdir()] == ["aalen.pdf"]
