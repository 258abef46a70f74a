"""What the coordinator does not add: a wrong, late or repeated upload voids its round, and the journal names whose it was."""

import json
from dataclasses import replace

import pytest

from client import config
from common import announcement as announcements
from common import model, wire
from common.crypto import masking, ring
from common.crypto.adding import add
from common.errors import BadEnvelope, ContextMismatch, HospitalMissing, LateUpload, SecondUpload
from tests import federation, refusing
from tests.federation import HOSPITALS, kind
from tests.refusing import GRAM, STRANGER, STUDY, again, announced, coordinator, voided


@pytest.fixture(scope="module")
def shared(tmp_path_factory, phantom_scans, cohort_cache):
    with refusing.federated(tmp_path_factory.mktemp("refusals"), scans=phantom_scans, cache=cohort_cache) as one:
        yield one


@pytest.fixture
def hospitals(shared, monkeypatch):
    return refusing.watched(shared, monkeypatch)


def test_substituted_identity_key_at_the_coordinator(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    one.after = lambda name, data: again(data, key=STRANGER) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": BadEnvelope.code}, uploaded={*HOSPITALS} - {"hosp-b"})
    assert BadEnvelope.code == "E-ENVELOPE"


def test_roster_too_small_at_the_coordinator(hospitals):
    one, _ = hospitals
    rounds = coordinator(one, ready=False)
    one.before = lambda name, data: data if name in HOSPITALS[:2] else None
    with pytest.raises(HospitalMissing, match="2 hospitals take part") as caught:
        rounds.set_up()
    assert caught.value.code == "E-MISSING"


def test_context_mismatch_at_the_coordinator(hospitals):
    """Two hospitals were told different things: the coordinator's own rule finds it before any sum exists."""
    one, _ = hospitals
    rounds = coordinator(one)

    def lie(name, data):
        if name != "hosp-b":
            return data
        told = wire.peek(data)
        other = {**told.body, "announcement": {**told.body["announcement"], "index": 2}}
        return wire.seal(replace(told, body=other), key=one.key)

    one.before = lie
    before = len(one.sent)
    blob = model.initial(STUDY.training, channels=1, patch_voxels=STUDY.recipe.patch_voxels)
    with pytest.raises(HospitalMissing):
        rounds.secure_sum(task="train", index=1, dimension=13, blob=blob, attempts=1)
    event = [event for event in rounds.journal.events() if event["type"] == "round"][-1]
    assert (event["state"], event["missing"]) == ("void", {"hosp-b": "E-CONTEXT"})
    assert ContextMismatch.code == "E-CONTEXT"
    uploads = {name: wire.peek(data) for name, data in one.sent[before:]}
    honest = announcements.parse(json.loads((rounds.folder / "000001" / "announcement.json").read_bytes()))
    with pytest.raises(ContextMismatch, match=r"^hosp-b answered in another context"):
        add(uploads, announcement=honest, transcript=rounds.transcript)


def test_wrong_length_at_the_coordinator(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    key = config.identity_key(one.homes["hosp-b"])
    one.after = lambda name, data: again(data, key=key, blob=wire.peek(data).blob[:-16]) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})


def test_wrong_dtype_at_the_coordinator(hospitals):
    """Words of another width are bytes of another length."""
    one, _ = hospitals
    rounds = coordinator(one)
    key = config.identity_key(one.homes["hosp-b"])
    one.after = lambda name, data: again(data, key=key, blob=wire.peek(data).blob[::2]) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})


def test_upload_with_a_bad_signature(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)

    def damaged(data):
        at = len(data) - len(wire.peek(data).blob) - 1  # the last byte of the signature
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    one.after = lambda name, data: damaged(data) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})
    with pytest.raises(BadEnvelope, match="signature does not hold"):
        wire.open_envelope(
            damaged(one.sent[-1][1]), key=one.roster.identity("hosp-d"), sender="hosp-d", recipient=federation.COORDINATOR
        )


def test_upload_that_does_not_match_its_head(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    one.after = lambda name, data: data[:-1] + bytes([data[-1] ^ 1]) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})
    data = one.sent[-1][1]
    with pytest.raises(BadEnvelope, match="not the one that was signed"):
        wire.peek(data[:-1] + bytes([data[-1] ^ 1]))


def late(one, number, *, at):
    """Hold hosp-b's upload of round `number` back, and deliver it in the place of its reply in round `at`."""
    held = []

    def after(name, data):
        if name != "hosp-b" or kind(data) != "upload":
            return data
        if wire.peek(data).body["round"] == number:
            held.append(data)
            return None
        return held[0] if wire.peek(data).body["round"] == at else data

    one.after = after


def test_late_upload(hospitals):
    """An upload that comes when its round is closed is added to no later one: it voids that one, and the next opens."""
    one, _ = hospitals
    rounds = coordinator(one)
    late(one, 1, at=2)
    voided(rounds, {"hosp-b": "E-LATE"}, uploaded={*HOSPITALS} - {"hosp-b"})
    voided(rounds, {"hosp-b": LateUpload.code}, uploaded={*HOSPITALS} - {"hosp-b"})
    opened, words = rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    assert opened.round == 3
    assert ring.decode(words, bits=128)[0] == len(opened.hospitals) * federation.PATIENTS
    assert rounds.rounds.outcomes == {"1": "void", "2": "void", "3": "opened"}


def test_upload_of_another_round_replayed(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    old = next(data for name, data in reversed(one.sent) if name == "hosp-b")
    one.after = lambda name, data: old if name == "hosp-b" else data
    voided(rounds, {"hosp-b": LateUpload.code}, uploaded={*HOSPITALS} - {"hosp-b"})


def test_upload_of_another_run_replayed(hospitals):
    one, _ = hospitals
    coordinator(one).secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    old = next(data for name, data in reversed(one.sent) if name == "hosp-b")
    rounds = coordinator(one)
    one.after = lambda name, data: old if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})


def test_upload_of_another_hospital_replayed(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    seen = {}
    one.after = lambda name, data: seen["hosp-a"] if name == "hosp-b" else seen.setdefault(name, data)
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})


def test_more_than_one_upload_in_one_reply(hospitals):
    """What a hospital sends after the end of what it signed voids the round, by name."""
    one, _ = hospitals
    rounds = coordinator(one)
    one.after = lambda name, data: data + data if name == "hosp-b" else data
    voided(rounds, {"hosp-b": SecondUpload.code}, uploaded={*HOSPITALS} - {"hosp-b"})


def test_second_different_upload_at_the_coordinator(hospitals):
    """A hospital that sends two uploads for a round is not asked again after the first, and the second is not added."""
    one, _ = hospitals
    rounds = coordinator(one)
    honest = {}
    key = config.identity_key(one.homes["hosp-b"])
    asked = []

    def after(name, data):
        asked.append(name)
        if name == "hosp-c" and asked.count("hosp-c") == 1:
            return None  # one hospital is late: the identical request is sent again, to it alone
        if name == "hosp-b":
            honest.setdefault(name, data)
            if asked.count("hosp-b") > 1:
                return again(data, key=key, blob=bytes(len(wire.peek(data).blob)))
        return data

    one.after = after
    rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    assert (asked.count("hosp-b"), asked.count("hosp-c")) == (1, 2)
    assert (rounds.folder / "000001" / "hosp-b.envelope").read_bytes() == honest["hosp-b"]


def test_commitment_of_another_seed(hospitals):
    """Both ends of a pair commit to their seed; one that lies is found, and the pair is named."""
    one, _ = hospitals
    rounds = coordinator(one)
    rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    uploads = {name: wire.peek((rounds.folder / "000001" / f"{name}.envelope").read_bytes()) for name in HOSPITALS}
    ctx = masking.context(rounds.transcript, announcement=announced(rounds).bytes())
    body = uploads["hosp-b"].body
    lie = {**body["commitments"], "hosp-c": masking.commitment(b"x" * 32, ctx=ctx)}
    uploads["hosp-b"] = replace(uploads["hosp-b"], body={**body, "commitments": lie})
    with pytest.raises(ContextMismatch, match=r"^hosp-b and hosp-c were told different things") as caught:
        add(uploads, announcement=announced(rounds), transcript=rounds.transcript)
    assert caught.value.code == "E-CONTEXT"
