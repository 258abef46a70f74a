"""Attacks on a run from either side that once worked: on its time, its budget, its result, its record."""

import json

import pytest

from client.app import DEADLINE_S_MOST, _seconds
from common import canonical, left_out, roster, wire
from common.errors import BadEnvelope, HospitalMissing
from tests import federation
from tests.federation import HOSPITALS, kind


@pytest.fixture
def approved(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    return one, wanted


@pytest.mark.parametrize("said", [60, 60.0])
def test_the_plans_patience_reaches_the_relay(said):
    assert _seconds(said) == 60.0


@pytest.mark.parametrize("said", [True, -1, float("nan"), float("inf"), 1e9, "60", None])
def test_a_patience_that_is_none_is_bounded(said):
    assert _seconds(said) == DEADLINE_S_MOST


def test_a_step_whose_model_cannot_be_read_costs_no_epsilon(approved):
    one, wanted = approved
    rounds = federation.Coordinator(one, wanted, run="burn")
    rounds.set_up()
    with pytest.raises(HospitalMissing):
        rounds.secure_sum(task="train", index=1, dimension=13, blob=b"not a model", attempts=1)
    for name in HOSPITALS:
        kinds = [json.loads(line)["type"] for line in one.vaults[name].ledger.entries()]
        assert "reserve" not in kinds
        assert "refuse" in kinds


def test_a_result_does_not_wait_for_a_bad_checkpoint(approved):
    one, wanted = approved
    key = federation.config.identity_key(one.homes["hosp-b"])

    def after(name, data):
        if name != "hosp-b" or kind(data) != "closed":
            return data
        told = wire.peek(data)
        return wire.seal(federation.wire.Envelope(**{**envelope(told), "body": {"checkpoint": 7}}), key=key)

    one.after = after
    result = one.run(wanted)
    assert result["training"]["steps"] == wanted.training.steps
    (folder,) = one.folder.glob("run-*")
    assert sorted(path.stem for path in folder.glob("*.checkpoint")) == ["hosp-a", "hosp-c", "hosp-d"]


def test_a_pair_that_contradicts_itself_is_named(approved):
    one, wanted = approved
    rounds = federation.Coordinator(one, wanted, run="pair")
    rounds.set_up()
    key = federation.config.identity_key(one.homes["hosp-b"])

    def after(name, data):
        if name != "hosp-b" or kind(data) != "upload":
            return data
        told = wire.peek(data)
        body = {**told.body, "commitments": {**told.body["commitments"], "hosp-c": "0" * 64}}
        return wire.seal(wire.Envelope(**{**envelope(told), "body": body}), key=key)

    one.after = after
    with pytest.raises(HospitalMissing):
        rounds.secure_sum(task="gram", index=0, dimension=left_out.dimension(4), blob=b"", attempts=1)
    assert list(rounds.journal.rounds().values())[-1]["missing"] == {"hosp-b": "E-CONTEXT", "hosp-c": "E-CONTEXT"}


def test_a_bundle_with_more_than_a_key_is_left_out_by_name(approved):
    one, wanted = approved
    key = federation.config.identity_key(one.homes["hosp-d"])

    def after(name, data):
        if name != "hosp-d" or kind(data) != "bundle":
            return data
        told = wire.peek(data)
        return wire.seal(wire.Envelope(**{**envelope(told), "body": {**told.body, "more": "x" * 600_000}}), key=key)

    one.after = after
    rounds = federation.Coordinator(one, wanted, run="large")
    rounds.set_up()
    assert rounds.rounds.members == HOSPITALS[:3]


def test_what_the_carrier_called_failed_is_not_kept(approved):
    one, wanted = approved
    rounds = federation.Coordinator(one, wanted, run="both")
    rounds.set_up()
    whole = one.wave

    def wave(envelopes, *, deadline_s, receive):
        failed = whole(envelopes, deadline_s=deadline_s, receive=receive)
        return {**failed, "hosp-b": "E-REFUSED"}

    one.wave = wave
    with pytest.raises(HospitalMissing):
        rounds.secure_sum(task="gram", index=0, dimension=left_out.dimension(4), blob=b"", attempts=1)
    assert sorted(path.name for path in (rounds.folder / "000001").glob("*.envelope")) == [
        f"{name}.envelope" for name in HOSPITALS if name != "hosp-b"
    ]


def test_the_first_announcement_fits_for_as_many_hospitals_as_a_roster_holds():
    sealed = {f"hosp-{number:02d}": "00" * 1_250 for number in range(roster.MEMBERS_MOST - 1)}
    one = canonical.encode({"sealed": sealed}).hex()
    body = {"inbox": {f"hosp-{number:02d}": one for number in range(roster.MEMBERS_MOST - 1)}}
    assert len(canonical.encode(body)) < wire.HEAD_BYTES_MOST
    key = federation.Ed25519PrivateKey.generate()
    sent = wire.seal(wire.Envelope(kind="announce", sender="hub", recipient="hosp-00", run="r", body=body), key=key)
    opened = wire.open_envelope(sent, key=key.public_key(), sender="hub", recipient="hosp-00")
    assert opened.body == body
    reply = wire.Incoming(key=key.public_key(), sender="hub", recipient="hosp-00", begin=lambda *_: lambda _piece: None)
    with pytest.raises(BadEnvelope):  # a hospital may not say as much
        reply.take(sent)


def envelope(told):
    return {name: getattr(told, name) for name in ("kind", "sender", "recipient", "run", "body", "blob")}
