"""Every refusal of the secure sum by name: class, code, the party that raises it, and that nothing left or was added."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import config
from client.mask import mask
from common import announcement as announcements
from common import model, moments, roster, wire
from common.announcement import Announcement
from common.contribution import Contribution
from common.crypto import masking, ring
from common.crypto.adding import add
from common.crypto.keys import SetupKey
from common.errors import (
    BadEnvelope,
    ContextMismatch,
    HospitalMissing,
    InternalError,
    OutsidePolicy,
    RosterNotApproved,
    RosterTooSmall,
    RoundRepeated,
    SetupMissing,
)
from common.ledger.receipt import Receipt
from common.mechanism import Exact
from server.journal import Journal
from server.rounds import Rounds
from tests import federation
from tests.federation import HOSPITALS, kind

STUDY = federation.study()
GRAM = moments.size(len(STUDY.columns()))
STRANGER = Ed25519PrivateKey.generate()
RUNS = iter(range(1, 10_000))
ME = "hosp-a"


@pytest.fixture(scope="module")
def shared(tmp_path_factory, phantom_scans, cohort_cache):
    one = federation.Federation(tmp_path_factory.mktemp("refusals"), phantom_scans, cache=cohort_cache)
    one.approve(STUDY)
    yield one
    one.close()


class Asked(list):
    """The errors that a vault raised while it answered."""


@pytest.fixture
def hospitals(shared, monkeypatch):
    """Return the federation, set right again, and what each of its vaults raises."""
    shared.before = shared.after = lambda _name, data: data
    raised = {name: Asked() for name in HOSPITALS}
    for name, vault in shared.vaults.items():
        real = vault._refuse

        def refuse(request, error, *, real=real, name=name):
            raised[name].append(error)
            return real(request, error)

        monkeypatch.setattr(vault, "_refuse", refuse)
    return shared, raised


def coordinator(one, *, ready=True):
    """Return the coordinator of a new run, set up."""
    run = f"refusal{next(RUNS)}"
    folder = one.folder / run
    folder.mkdir()
    made = Rounds(
        run=run, study=STUDY, roster=one.roster, key=one.key, carrier=one, journal=Journal(folder / "j"), folder=folder
    )
    if ready:
        made.set_up()
    return made


def announced(rounds, number=1, **changes):
    """Return the announcement of an honest Gram, with `changes`."""
    honest = Announcement(
        run=rounds.run,
        study=STUDY.hash(),
        roster=rounds.roster.hash(),
        round=number,
        hospitals=HOSPITALS,
        task="gram",
        index=0,
        dimension=GRAM,
        blob_sha256=hashlib.sha256(b"").hexdigest(),
        mechanism=Exact(statistic="gram", ring_bits=128),
    )
    return replace(honest, **changes)


def trained(rounds, **changes):
    """Return the announcement of an honest step but for the model, and with changes of its mechanism."""
    mechanism = announcements.mechanism_for(STUDY, task="train", hospitals=4, dimension=13)
    return announced(rounds, task="train", index=1, dimension=13, mechanism=replace(mechanism, **changes))


def envelope(rounds, one, *, name=ME, key=None):
    body = {
        "announcement": one if isinstance(one, dict) else one.plain(),
        "inbox": {peer: text.hex() for peer, text in rounds._sealed.items() if peer != name},
        "outcomes": {},
    }
    sent = wire.Envelope(kind="announce", sender=federation.COORDINATOR, recipient=name, run=rounds.run, body=body)
    return wire.seal(sent, key=key or rounds.key)


def refused(hospitals, data, error, code, *, name=ME):
    """The vault raises exactly this error, says its code and nothing else, writes it down, and charges and releases nothing."""
    one, raised = hospitals
    before = [json.loads(line) for line in one.vaults[name].ledger.entries()]
    reply = wire.peek(one.vaults[name].answer(data))
    assert [type(item) for item in raised[name]] == [error]
    assert error.code == code
    assert (reply.kind, reply.body) == ("refusal", {"code": code})
    after = [json.loads(line) for line in one.vaults[name].ledger.entries()][len(before) :]
    assert [(leaf["type"], leaf["code"]) for leaf in after if leaf["type"] not in {"policy", "plan"}] == [("refuse", code)]
    raised[name].clear()


def accepted(hospitals, data, *, name=ME):
    reply = hospitals[0].vaults[name].answer(data)
    assert kind(reply) == "upload"
    return reply


def voided(rounds, missing, *, uploaded=HOSPITALS):
    """The coordinator opens nothing, and its journal names who and why."""
    with pytest.raises(HospitalMissing):
        rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    event = [event for event in rounds.journal.events() if event["type"] == "round"][-1]
    assert (event["state"], event["missing"], event["uploaded"]) == ("void", missing, sorted(uploaded))


def again(data, *, key, **changes):
    """Seal an envelope again, changed."""
    return wire.seal(replace(wire.peek(data), **changes), key=key)


# Who speaks


def test_unknown_identity(hospitals):
    """A coordinator whose key the hospital did not approve is not even answered, nor is a stranger."""
    one, raised = hospitals
    rounds = coordinator(one)
    with pytest.raises(BadEnvelope, match="signature") as caught:
        one.vaults[ME].answer(envelope(rounds, announced(rounds), key=STRANGER))
    assert caught.value.code == "E-ENVELOPE"
    stranger = wire.Envelope(kind="announce", sender="stranger", recipient=ME, run=rounds.run, body={})
    with pytest.raises(BadEnvelope, match="somebody else"):
        one.vaults[ME].answer(wire.seal(stranger, key=one.key))
    assert raised[ME] == []


def test_unknown_identity_among_the_bundles(hospitals):
    one, _ = hospitals
    rounds = coordinator(one, ready=False)
    seen = {}
    one.before = lambda name, data: seen.setdefault((name, kind(data)), data)
    rounds.set_up()
    shown = wire.peek(seen[ME, "invite"])
    bundle = one.vaults[ME].answer(seen[ME, "invite"])
    for sybil in ("sybil", federation.COORDINATOR):
        other = coordinator(one, ready=False)
        invite = wire.seal(replace(shown, run=other.run), key=one.key)
        bundle = one.vaults[ME].answer(invite)
        foreign = wire.Envelope(
            kind="bundle", sender=sybil, recipient=federation.COORDINATOR, run=other.run, body={"setup_key": ""}
        )
        bundles = {ME: bundle.hex(), sybil: wire.seal(foreign, key=one.key).hex()}
        request = replace(shown, kind="keys", run=other.run, body={"bundles": bundles})
        refused(hospitals, wire.seal(request, key=one.key), BadEnvelope, "E-ENVELOPE")


def keys_request(one, swap):
    """Set a new run up as far as the bundles; return the request for the second step with `swap` applied to the bundles."""
    rounds = coordinator(one, ready=False)
    requests = {}

    def before(name, data):
        requests[name] = data
        return None if kind(data) == "keys" else data

    one.before = before
    with pytest.raises(HospitalMissing):
        rounds.set_up()
    asked = wire.peek(requests[ME])
    return again(requests[ME], key=one.key, body={"bundles": swap(dict(asked.body["bundles"]))})


def test_substituted_identity_key(hospitals):
    """A peer's bundle that another identity signed."""

    def swap(bundles):
        return {**bundles, "hosp-b": again(bytes.fromhex(bundles["hosp-b"]), key=STRANGER).hex()}

    refused(hospitals, keys_request(hospitals[0], swap), BadEnvelope, "E-ENVELOPE")


def test_substituted_identity_key_at_the_coordinator(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    one.after = lambda name, data: again(data, key=STRANGER) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": BadEnvelope.code}, uploaded={*HOSPITALS} - {"hosp-b"})
    assert BadEnvelope.code == "E-ENVELOPE"


def test_substituted_identity_key_in_the_roster(hospitals):
    one, _ = hospitals
    members = [
        replace(m, identity=STRANGER.public_key().public_bytes_raw().hex()) if m.name == ME else m for m in one.roster.members
    ]
    other = roster.sign(federation="phantoms", coordinator=federation.COORDINATOR, key=one.key, members=tuple(members))
    with pytest.raises(RosterNotApproved, match="this hospital's key") as caught:
        config.approve_roster(one.homes[ME], data=other.bytes(), expected_hash=other.hash())
    assert caught.value.code == "E-REFUSED-ROSTER"


def test_substituted_setup_key_of_a_peer(hospitals):
    """The coordinator cannot sign another bundle for a peer, nor change the signed one, nor show one of another run."""
    one, _ = hospitals
    other = SetupKey.generate().public_bytes().hex()

    def changed(bundles):
        signed = bytes.fromhex(bundles["hosp-b"])
        mine = wire.peek(signed).body["setup_key"]
        return {**bundles, "hosp-b": signed.replace(mine.encode(), other.encode()).hex()}

    def signed_by_the_coordinator(bundles):
        return {**bundles, "hosp-b": again(bytes.fromhex(bundles["hosp-b"]), key=one.key, body={"setup_key": other}).hex()}

    def of_another_hospital(bundles):
        return {**bundles, "hosp-b": bundles["hosp-c"]}

    earlier = {}
    keys_request(one, lambda bundles: earlier.update(bundles) or bundles)

    def of_another_run(bundles):
        return {**bundles, "hosp-b": earlier["hosp-b"]}

    for swap in (changed, signed_by_the_coordinator, of_another_hospital, of_another_run):
        refused(hospitals, keys_request(one, swap), BadEnvelope, "E-ENVELOPE")


def test_substituted_setup_key_of_oneself(hospitals):
    """Even one that the hospital itself signed, as a copy of it would."""
    one, _ = hospitals
    mine = config.identity_key(one.homes[ME])

    def swap(bundles):
        other = {"setup_key": SetupKey.generate().public_bytes().hex()}
        return {**bundles, ME: again(bytes.fromhex(bundles[ME]), key=mine, body=other).hex()}

    refused(hospitals, keys_request(one, swap), ContextMismatch, "E-CONTEXT")
    refused(hospitals, keys_request(one, lambda b: {k: v for k, v in b.items() if k != ME}), ContextMismatch, "E-CONTEXT")


# Roster


def test_roster_not_approved(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    refused(hospitals, envelope(rounds, announced(rounds, roster="0" * 64)), RosterNotApproved, "E-REFUSED-ROSTER")
    named = (*HOSPITALS, "hosp-e")
    refused(hospitals, envelope(rounds, announced(rounds, hospitals=named)), RosterNotApproved, "E-REFUSED-ROSTER")
    body = {"study": STUDY.hash(), "roster": "0" * 64}
    invite = wire.Envelope(kind="invite", sender=federation.COORDINATOR, recipient=ME, run="another", body=body)
    refused(hospitals, wire.seal(invite, key=one.key), RosterNotApproved, "E-REFUSED-ROSTER")


def test_roster_too_small(hospitals):
    rounds = coordinator(hospitals[0])
    two = announced(rounds, hospitals=(ME, "hosp-b"))
    refused(hospitals, envelope(rounds, two), RosterTooSmall, "E-REFUSED-ROSTER-SIZE")


def test_roster_too_small_at_the_coordinator(hospitals):
    one, _ = hospitals
    rounds = coordinator(one, ready=False)
    one.before = lambda name, data: data if name in HOSPITALS[:2] else None
    with pytest.raises(HospitalMissing, match="2 hospitals take part") as caught:
        rounds.set_up()
    assert caught.value.code == "E-MISSING"


def test_fewer_than_two_honest_hospitals(make_federation):
    """Three of four are named, and the study assumes that two of them collude: large enough for the policy, and refused."""
    one, careful = make_federation(), federation.study(privacy={"colluders": 2})
    one.approve(careful)
    folder = one.folder / "r"
    folder.mkdir()
    rounds = Rounds(
        run="r", study=careful, roster=one.roster, key=one.key, carrier=one, journal=Journal(folder / "j"), folder=folder
    )
    rounds.set_up()
    wanted = announced(rounds, study=careful.hash(), hospitals=HOSPITALS[:3])
    reply = wire.peek(one.vaults[ME].answer(envelope(rounds, wanted)))
    assert reply.body == {"code": RosterTooSmall.code} == {"code": "E-REFUSED-ROSTER-SIZE"}
    again_without_one = Rounds(
        run="r2", study=careful, roster=one.roster, key=one.key, carrier=one, journal=Journal(folder / "j"), folder=folder
    )
    one.before = lambda name, data: None if name == "hosp-d" else data
    with pytest.raises(HospitalMissing, match="3 hospitals take part, the study needs 4"):  # the coordinator does not go on
        again_without_one.set_up()


def test_self_not_in_the_round(hospitals):
    rounds = coordinator(hospitals[0])
    others = announced(rounds, hospitals=HOSPITALS[1:])
    refused(hospitals, envelope(rounds, others), RosterNotApproved, "E-REFUSED-ROSTER")


def test_a_peer_without_pair_keys_in_the_round(hospitals):
    """A hospital of the roster that took no part in this run's set-up."""
    one, _ = hospitals
    rounds = coordinator(one, ready=False)
    one.before = lambda name, data: None if name == "hosp-d" else data
    rounds.set_up()
    refused(hospitals, envelope(rounds, announced(rounds)), SetupMissing, "E-SETUP")


# Round numbers


def test_round_repeated(hospitals):
    rounds = coordinator(hospitals[0])
    accepted(hospitals, envelope(rounds, announced(rounds, 2)))
    other = announced(rounds, 2, index=1)
    refused(hospitals, envelope(rounds, other), RoundRepeated, "E-ROUND")


def test_round_stepped_back(hospitals):
    rounds = coordinator(hospitals[0])
    accepted(hospitals, envelope(rounds, announced(rounds, 3)))
    for number in (2, 1):
        refused(hospitals, envelope(rounds, announced(rounds, number)), RoundRepeated, "E-ROUND")


def test_second_different_upload_in_a_round(hospitals):
    """The vault gives one upload a round: the same request gets the same bytes, any other about that round a refusal."""
    rounds = coordinator(hospitals[0])
    request = envelope(rounds, announced(rounds))
    first = accepted(hospitals, request)
    assert accepted(hospitals, request) == first
    other = again(request, key=rounds.key, body={**wire.peek(request).body, "outcomes": {"9": "void"}})
    refused(hospitals, other, RoundRepeated, "E-ROUND")
    refused(hospitals, envelope(rounds, announced(rounds, hospitals=HOSPITALS[:3])), RoundRepeated, "E-ROUND")
    assert accepted(hospitals, request) == first


# What the round is about


def test_context_mismatch_at_the_hospital(hospitals):
    """An announcement that is not about this run or these bytes; set-up over other bundles is in the tests above."""
    rounds = coordinator(hospitals[0])
    for change in ({"run": "another"}, {"blob_sha256": "0" * 64}):
        refused(hospitals, envelope(rounds, announced(rounds, **change)), BadEnvelope, "E-ENVELOPE")
    refused(hospitals, envelope(rounds, announced(rounds, study="0" * 64)), RosterNotApproved, "E-REFUSED-ROSTER")


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


@pytest.mark.parametrize("dimension", [1, GRAM - 1, GRAM + 1, 1 << 28])
def test_wrong_length(hospitals, dimension):
    rounds = coordinator(hospitals[0])
    wrong = announced(rounds, dimension=dimension)
    refused(hospitals, envelope(rounds, wrong), OutsidePolicy, "E-REFUSED-PARAMETERS")


def test_wrong_length_at_the_coordinator(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    key = config.identity_key(one.homes["hosp-b"])
    one.after = lambda name, data: again(data, key=key, blob=wire.peek(data).blob[:-16]) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})


def test_wrong_dtype():
    """Under the wall: a clipped sum that is not float64 does not get noise or a mask."""
    mechanism = announcements.mechanism_for(STUDY, task="train", hospitals=4, dimension=3)
    receipt = Receipt(reservation="r/1/a", study=STUDY.hash(), mechanism=mechanism, sequence=1)
    for values in (np.zeros(3, np.int64), np.zeros(3, object), np.zeros(4)):
        with pytest.raises(InternalError, match="type or length") as caught:
            mask(Contribution(values=values, mechanism=mechanism), receipt=receipt, me="a", seeds={"b": b"s" * 32})
        assert caught.value.code == "E-INTERNAL"


def test_wrong_dtype_at_the_coordinator(hospitals):
    """Words of another width are bytes of another length."""
    one, _ = hospitals
    rounds = coordinator(one)
    key = config.identity_key(one.homes["hosp-b"])
    one.after = lambda name, data: again(data, key=key, blob=wire.peek(data).blob[::2]) if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-ENVELOPE"}, uploaded={*HOSPITALS} - {"hosp-b"})


@pytest.mark.parametrize("bits", [32, 64])
def test_wrong_ring(hospitals, bits):
    rounds = coordinator(hospitals[0])
    wrong = announced(rounds, mechanism=Exact(statistic="gram", ring_bits=bits))
    refused(hospitals, envelope(rounds, wrong), OutsidePolicy, "E-REFUSED-PARAMETERS")
    refused(hospitals, envelope(rounds, trained(rounds, ring_bits=2 * bits)), OutsidePolicy, "E-REFUSED-PARAMETERS")


@pytest.mark.parametrize(
    "change",
    [{"share_bits": 8}, {"share_bits": 24}, {"clip_norm": 4}, {"dimension": 12}, {"patients_per_step_max": 65}],
    ids=str,
)
def test_wrong_scale(hospitals, change):
    """Scale, clip and room are the mechanism's; it must be the one that the study implies."""
    rounds = coordinator(hospitals[0])
    change = {key: STUDY.privacy.clip_norm * value if key == "clip_norm" else value for key, value in change.items()}
    assert trained(rounds, **change) != trained(rounds)
    refused(hospitals, envelope(rounds, trained(rounds, **change)), OutsidePolicy, "E-REFUSED-PARAMETERS")


@pytest.mark.parametrize(
    "change", [{"noise_multiplier": "0.5"}, {"sampling_rate": "0.5"}, {"colluders": 0}, {"hospitals": 5}], ids=str
)
def test_parameters_outside_the_policy(hospitals, change):
    rounds = coordinator(hospitals[0])
    wanted = trained(rounds).plain()
    outside = {**wanted, "mechanism": {**wanted["mechanism"], **change}}
    refused(hospitals, envelope(rounds, outside), OutsidePolicy, "E-REFUSED-PARAMETERS")


def test_parameters_outside_the_policy_exact_in_the_place_of_noise(hospitals):
    rounds = coordinator(hospitals[0])
    wanted = announced(rounds, task="train", index=1, dimension=13)
    refused(hospitals, envelope(rounds, wanted), OutsidePolicy, "E-REFUSED-PARAMETERS")


@pytest.mark.parametrize("task", ["", "Gram", "plain", "train ", None, 7, ["gram"]], ids=repr)
def test_unknown_task(hospitals, task):
    rounds = coordinator(hospitals[0])
    wanted = {**announced(rounds).plain(), "task": task}
    refused(hospitals, envelope(rounds, wanted), BadEnvelope, "E-ENVELOPE")


# What comes back to the coordinator


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
    voided(rounds, {"hosp-b": "E-CONTEXT"}, uploaded={*HOSPITALS} - {"hosp-b"})
    opened, words = rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    assert opened.round == 3
    assert ring.decode(words, bits=128)[0] == len(opened.hospitals) * federation.PATIENTS
    assert rounds.outcomes == {"1": "void", "2": "void", "3": "opened"}


def test_upload_of_another_round_replayed(hospitals):
    one, _ = hospitals
    rounds = coordinator(one)
    rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    old = next(data for name, data in reversed(one.sent) if name == "hosp-b")
    one.after = lambda name, data: old if name == "hosp-b" else data
    voided(rounds, {"hosp-b": "E-CONTEXT"}, uploaded={*HOSPITALS} - {"hosp-b"})


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
