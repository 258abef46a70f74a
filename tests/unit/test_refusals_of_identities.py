"""What a hospital refuses because of who speaks or who takes part: class, code, and that nothing left or was charged."""

from dataclasses import replace

import pytest

from client import config
from common import roster, wire
from common.crypto.keys import SetupKey
from common.errors import BadEnvelope, ContextMismatch, HospitalMissing, RosterNotApproved, RosterTooSmall, SetupMissing
from tests import federation, refusing
from tests.federation import HOSPITALS, kind
from tests.refusing import ME, STRANGER, STUDY, again, announced, coordinator, envelope, refused


@pytest.fixture(scope="module")
def shared(tmp_path_factory, phantom_scans, cohort_cache):
    with refusing.federated(tmp_path_factory.mktemp("refusals"), scans=phantom_scans, cache=cohort_cache) as one:
        yield one


@pytest.fixture
def hospitals(shared, monkeypatch):
    return refusing.watched(shared, monkeypatch)


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


def test_fewer_than_two_honest_hospitals(make_federation):
    """Three of four are named, and the study assumes that two of them collude: large enough for the policy, and refused."""
    one, careful = make_federation(), federation.study(privacy={"colluders": 2})
    one.approve(careful)
    rounds = federation.Coordinator(one, careful, run="r")
    rounds.set_up()
    wanted = announced(rounds, study=careful.hash(), hospitals=HOSPITALS[:3])
    reply = wire.peek(one.vaults[ME].answer(envelope(rounds, wanted)))
    assert reply.body == {"code": RosterTooSmall.code} == {"code": "E-REFUSED-ROSTER-SIZE"}
    again_without_one = federation.Coordinator(one, careful, run="r2")
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
