"""One run's secrets: set up once, ratcheted forward only, erased when spent, private on disk and never shown."""

import json
import os
import stat
from dataclasses import replace

import pytest

from client import session
from client.session import Session
from common.crypto import keys
from common.crypto.keys import SetupKey
from common.errors import BadEnvelope, ContextMismatch, RoundRepeated, SetupMissing

NAMES = ("a", "b", "c")
ROSTER = "ab" * 32
CTX = b"c" * 32


def invited():
    return {name: Session(run="r1", study="s", roster=ROSTER, setup_key=SetupKey.generate().private_bytes()) for name in NAMES}


def bundles_of(states):
    return {name: SetupKey.from_bytes(state.setup_key).public_bytes() for name, state in states.items()}


def sealed_by(states):
    bundles, after, outbox = bundles_of(states), {}, {}
    for name, state in states.items():
        after[name], outbox[name] = state.with_bundles(bundles, me=name)
    return after, outbox


def keyed():
    states, outbox = sealed_by(invited())
    return {
        name: state.with_sealed({peer: outbox[peer][name] for peer in NAMES if peer != name}, me=name)
        for name, state in states.items()
    }


KEYED = keyed()


def at_round(name, number, *, hospitals=NAMES, state=None):
    return (state or KEYED[name]).with_round(number, hospitals=hospitals, me=name, request=b"request")


def test_both_ends_of_every_pair_hold_one_key_and_no_two_pairs_share_it():
    for name in NAMES:
        for peer in NAMES:
            if name != peer:
                assert KEYED[name].pair_keys[peer] == KEYED[peer].pair_keys[name]
    assert len({key for state in KEYED.values() for key in state.pair_keys.values()}) == 3
    assert all(state.keyed() for state in KEYED.values())
    assert not invited()["a"].keyed()


def test_the_setup_key_and_the_sent_secrets_are_erased_after_step_3(tmp_path):
    before, outbox = sealed_by(invited())
    before["a"].save(tmp_path)
    secrets = [before["a"].setup_key, *before["a"].sent_secrets.values()]
    saved = (tmp_path / "r1.run.json").read_text()
    assert all(secret.hex() in saved for secret in secrets)
    after = before["a"].with_sealed({peer: outbox[peer]["a"] for peer in ("b", "c")}, me="a")
    after.save(tmp_path)
    saved = (tmp_path / "r1.run.json").read_text()
    assert not any(secret.hex() in saved for secret in secrets)
    assert [path.name for path in tmp_path.iterdir()] == ["r1.run.json"]
    assert session.load(tmp_path, run="r1") == after


def test_neither_this_rounds_key_nor_an_earlier_one_is_in_the_saved_file(tmp_path):
    later, used = at_round("a", 2)
    later.save(tmp_path)
    saved = (tmp_path / "r1.run.json").read_text()
    for keys_of_then in (KEYED["a"].pair_keys, at_round("a", 1)[1], used):
        assert set(keys_of_then) == {"b", "c"}
        assert not any(key.hex() in saved for key in keys_of_then.values())


def seed(name, used, *, ctx=CTX):
    return session.seeds(used, ctx=ctx, me=name)


def test_seeds_agree_at_both_ends_in_every_round_also_after_missed_ones():
    a = at_round("a", 1)[0]
    a = at_round("a", 2, state=a)[0]
    a = seed("a", at_round("a", 7, state=a)[1])
    b = seed("b", at_round("b", 7)[1])
    c = seed("c", at_round("c", 7, state=at_round("c", 3, hospitals=("b", "c"))[0])[1])
    assert (a["b"], a["c"], b["c"]) == (b["a"], c["a"], c["b"])


def test_a_pair_that_was_apart_catches_up():
    apart = at_round("a", 4, hospitals=("a", "b"))[0]
    assert at_round("a", 5, state=apart)[1]["c"] == at_round("c", 5)[1]["a"]
    assert at_round("a", 6, state=at_round("a", 5, state=apart)[0])[1]["c"] == at_round("c", 6)[1]["a"]


def test_every_round_and_every_context_has_seeds_of_its_own():
    state, made = KEYED["a"], []
    for number in range(1, 5):
        state, used = at_round("a", number, state=state)
        for ctx in (b"c" * 32, b"d" * 32):
            made.extend(seed("a", used, ctx=ctx).values())
    assert len(set(made)) == 4 * 2 * 2


def test_only_peers_that_the_round_names_have_seeds():
    assert set(seed("a", at_round("a", 1, hospitals=("a", "c"))[1])) == {"c"}


def test_a_round_too_far_ahead_is_refused():
    at_round("a", session.ROUNDS_AHEAD_MOST)
    for number in (session.ROUNDS_AHEAD_MOST + 1, 10**9, 2**53):
        with pytest.raises(RoundRepeated):
            at_round("a", number)


def test_an_erased_state_holds_no_secret_and_still_knows_what_it_answered(tmp_path):
    before = at_round("a", 2)[0]
    before.erased().save(tmp_path)
    saved = (tmp_path / "r1.run.json").read_text()
    assert not any(key.hex() in saved for key in before.pair_keys.values())
    after = session.load(tmp_path, run="r1")
    assert not after.keyed()
    assert after.answered("2", b"request")
    with pytest.raises(SetupMissing):
        at_round("a", 3, state=after)
    with pytest.raises(RoundRepeated):
        at_round("a", 2, state=after)


@pytest.mark.parametrize("number", [3, 2, 1, 0, -1])
def test_a_round_that_was_passed_is_refused(number):
    with pytest.raises(RoundRepeated):
        at_round("a", number, state=at_round("a", 3)[0])


def test_a_round_with_a_stranger_is_refused():
    with pytest.raises(SetupMissing):
        at_round("a", 1, hospitals=(*NAMES, "d"))


def test_the_same_request_may_come_again_and_another_one_may_not():
    state = KEYED["a"].with_request("invite", b"one")
    assert state.answered("invite", b"one")
    assert not state.answered("keys", b"one")
    with pytest.raises(RoundRepeated, match="Another request"):
        state.answered("invite", b"two")
    later = at_round("a", 4)[0]
    assert later.answered("4", b"request")
    with pytest.raises(RoundRepeated):
        later.answered("4", b"other")


def test_a_step_leaves_the_state_before_it_as_it_was():
    before = replace(KEYED["a"])
    at_round("a", 3)
    KEYED["a"].with_request("x", b"y")
    assert KEYED["a"] == before
    with pytest.raises(AttributeError):
        KEYED["a"].last_round = 9


def test_steps_out_of_order_are_refused():
    states, outbox = sealed_by(invited())
    bundles = bundles_of(states)
    inbox = {peer: outbox[peer]["a"] for peer in ("b", "c")}
    with pytest.raises(SetupMissing):
        states["a"].with_bundles(bundles, me="a")
    with pytest.raises(SetupMissing):
        KEYED["a"].with_bundles(bundles, me="a")
    with pytest.raises(SetupMissing):
        KEYED["a"].with_sealed(inbox, me="a")
    with pytest.raises(SetupMissing):
        invited()["a"].with_sealed(inbox, me="a")


@pytest.mark.parametrize("peers", [(), ("b",), ("b", "c", "d"), ("b", "d")])
def test_secrets_of_other_peers_than_the_bundles_named_are_refused(peers):
    states, outbox = sealed_by(invited())
    with pytest.raises(SetupMissing):
        states["a"].with_sealed(dict.fromkeys(peers, outbox["b"]["a"]), me="a")


def test_a_coordinator_that_shows_another_key_of_ours_is_refused():
    states = invited()
    bundles = bundles_of(states)
    for own in (SetupKey.generate().public_bytes(), b"", bundles["b"]):
        with pytest.raises(ContextMismatch):
            states["a"].with_bundles({**bundles, "a": own}, me="a")
    with pytest.raises(ContextMismatch):
        states["a"].with_bundles({"b": bundles["b"], "c": bundles["c"]}, me="a")


def test_a_coordinator_that_shows_two_hospitals_different_keys_is_found():
    states = invited()
    bundles = bundles_of(states)
    lie = {**bundles, "c": SetupKey.generate().public_bytes()}
    told, _ = states["a"].with_bundles(bundles, me="a")
    _, sealed = states["b"].with_bundles(lie, me="b")
    with pytest.raises(BadEnvelope, match="does not open"):
        told.with_sealed({"b": sealed["a"], "c": sealed["a"]}, me="a")


def test_a_malformed_bundle_of_a_peer_is_refused():
    states = invited()
    with pytest.raises(BadEnvelope, match="malformed"):
        states["a"].with_bundles({**bundles_of(states), "b": b"short"}, me="a")


def test_a_swapped_secret_does_not_open():
    states, outbox = sealed_by(invited())
    with pytest.raises(BadEnvelope, match="does not open"):
        states["a"].with_sealed({"b": outbox["c"]["a"], "c": outbox["b"]["a"]}, me="a")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_state_is_private_under_any_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        KEYED["a"].save(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r1.run.json").stat().st_mode) == 0o600


def test_a_state_reads_back(tmp_path):
    state = replace(at_round("a", 3)[0], noisy_rounds=2, models=("0" * 64,))
    assert not session.exists(tmp_path, run="r1")
    state.save(tmp_path)
    assert session.exists(tmp_path, run="r1")
    assert session.load(tmp_path, run="r1") == state


def test_a_lost_state_is_a_missing_set_up(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SetupMissing, match="no set-up"):
            session.load(folder, run="r1")


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"3", b"\xff", b'"x"', b"[" * 100_000, b'{"run": 1}'],
    ids=lambda data: repr(data[:12]),
)
def test_a_damaged_state_is_a_missing_set_up(data, tmp_path):
    (tmp_path / "r1.run.json").write_bytes(data)
    with pytest.raises(SetupMissing):
        session.load(tmp_path, run="r1")


@pytest.mark.parametrize(
    ("key", "value"),
    [("pair_keys", []), ("pair_keys", {"b": 1}), ("pair_keys", {"b": "zz"}), ("setup_key", None), ("setup_key", "x")],
)
def test_a_state_with_a_damaged_part_is_a_missing_set_up(key, value, tmp_path):
    KEYED["a"].save(tmp_path)
    path = tmp_path / "r1.run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(SetupMissing):
        session.load(tmp_path, run="r1")


@pytest.mark.parametrize("run", ["", ".", "../r1", "a/b", "a\0", "r 1", "r1\n", "é", "R1", "r" * 65])
def test_a_runs_name_is_a_plain_word(run, tmp_path):
    with pytest.raises(BadEnvelope, match="malformed"):
        session.load(tmp_path, run=run)
    with pytest.raises(BadEnvelope, match="malformed"):
        session.exists(tmp_path, run=run)
    with pytest.raises(BadEnvelope, match="malformed"):
        Session(run=run, study="s", roster=ROSTER).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_secret_is_shown():
    for one in (sealed_by(invited())[0]["a"], KEYED["a"]):
        shown = repr(one) + str(one) + f"{one}" + repr([one]) + repr({"x": one})
        secrets = [one.setup_key, *one.sent_secrets.values(), *one.pair_keys.values()]
        assert any(secrets)
        for secret in filter(None, secrets):
            assert secret.hex()[:16] not in shown
            assert repr(secret)[2:18] not in shown


def test_a_failing_step_shows_no_secret():
    states, _ = sealed_by(invited())
    with pytest.raises(BadEnvelope) as caught:
        states["a"].with_sealed({"b": b"x" * 2000, "c": b"x" * 2000}, me="a")
    assert states["a"].setup_key.hex()[:16] not in str(caught.value)


def test_keys_of_two_runs_differ():
    assert not set(keyed()["a"].pair_keys.values()) & set(KEYED["a"].pair_keys.values())
    assert keys.SECRET_BYTES == 32
