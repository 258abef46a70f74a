"""Rounds of many hospitals over any rosters and drop-outs: each opened sum is the plain sum, and nobody falls out of step."""

import itertools
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import session
from client.session import Session
from common import wire
from common.announcement import Announcement
from common.crypto import keys, masking, ring
from common.crypto.adding import add
from common.crypto.keys import SetupKey
from common.errors import ContextMismatch, HospitalMissing
from common.ledger import post_quantum
from common.mechanism import Exact
from common.wire import Envelope
from tests import federation

ROSTER = "cd" * 32
NAMES = ("aalen", "berlin", "cadiz", "dijon", "evora", "fermo")
SIZE = 3


@cache
def keyed(names):
    """Return the sessions of `names`, set up with one another, and their transcript."""
    states = {name: Session(run="r", study="s", roster=ROSTER, setup_key=SetupKey.generate().private_bytes()) for name in names}
    bundles = {name: SetupKey.from_bytes(state.setup_key).public_bytes() for name, state in states.items()}
    sent = {}
    for name in names:
        states[name], sent[name] = states[name].with_bundles(bundles, me=name)
    ready = {
        name: state.with_sealed({peer: sent[peer][name] for peer in names if peer != name}, me=name)
        for name, state in states.items()
    }
    return ready, keys.transcript(bundles, roster_hash=ROSTER, run="r")


def announce(number, hospitals, bits, *, model="0"):
    return Announcement(
        run="r",
        study="1" * 64,
        roster=ROSTER,
        round=number,
        hospitals=tuple(sorted(hospitals)),
        task="evaluate",
        index=1,
        dimension=SIZE,
        blob_sha256=model * 64,
        mechanism=Exact(statistic="score-histogram", ring_bits=bits),
    )


def upload(state, announced, values, *, me):
    """Return the state after the round and the hospital's upload, as its vault makes it."""
    state, used = state.with_round(announced.round, hospitals=announced.hospitals, me=me, request=announced.bytes())
    ctx = masking.context(state.transcript, announcement=announced.bytes())
    seeds, bits = session.seeds(used, ctx=ctx, me=me), announced.mechanism.ring_bits
    masked = masking.mask(ring.encode(np.array(values, object), bits=bits), me=me, seeds=seeds, bits=bits)
    body = {
        "round": announced.round,
        "context": ctx.hex(),
        "commitments": {peer: masking.commitment(seed, ctx=ctx) for peer, seed in seeds.items()},
    }
    return state, Envelope(kind="upload", sender=me, recipient="hub", run="r", body=body, blob=ring.to_bytes(masked))


def signed(value, bits):
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def integers(bits):
    top = 1 << (bits - 1)
    return st.sampled_from([0, 1, -1, top - 1, -top, top // 2, -(top // 2) - 1]) | st.integers(-top, top - 1)


@st.composite
def histories(draw):
    """Hospitals, and rounds: a number, a ring, who is named, who of them drops out, and what each one has."""
    names = NAMES[: draw(st.integers(3, 6))]
    number, rounds = 0, []
    for _ in range(draw(st.integers(1, 6))):
        number += draw(st.integers(1, 4))
        named = draw(st.sets(st.sampled_from(names), min_size=2))
        lost = draw(st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(sorted(named)))))
        bits = draw(st.sampled_from(ring.RINGS))
        rows = {name: draw(st.lists(integers(bits), min_size=SIZE, max_size=SIZE)) for name in sorted(named)}
        rounds.append((number, bits, named, lost, rows))
    return names, rounds


@settings(deadline=None, max_examples=60)
@given(history=histories(), lost_before=st.booleans())
def test_every_opened_sum_is_the_plain_sum_of_its_hospitals(history, lost_before):
    """Whoever dropped out before: an upload that got lost moves its hospital on, a hospital that was away stays behind."""
    names, rounds = history
    ready, transcript = keyed(names)
    states = dict(ready)
    for number, bits, named, lost, rows in rounds:
        announced, uploads = announce(number, named, bits), {}
        for name in announced.hospitals:
            if name in lost and lost_before:
                continue  # the announcement did not reach it
            states[name], made = upload(states[name], announced, rows[name], me=name)
            if name not in lost:
                uploads[name] = made
        if lost:
            with pytest.raises(HospitalMissing):
                add(uploads, announcement=announced, transcript=transcript)
            continue
        opened = ring.decode(add(uploads, announcement=announced, transcript=transcript), bits=bits)
        assert opened.tolist() == [signed(sum(column), bits) for column in zip(*rows.values(), strict=True)]
    announced = announce(rounds[-1][0] + 1, names, 64)  # whatever was void before, all are in step
    uploads = {name: upload(states[name], announced, [1, 2, 3], me=name)[1] for name in names}
    opened = ring.decode(add(uploads, announcement=announced, transcript=transcript), bits=64)
    assert opened.tolist() == [len(names), 2 * len(names), 3 * len(names)]


@settings(deadline=None, max_examples=40)
@given(missed=st.integers(0, 30), away=st.integers(0, 2))
def test_a_hospital_that_missed_rounds_is_in_step_when_it_returns(missed, away):
    """And only then: in a round that it answers with the keys of another, the pair is named and nothing opens."""
    names = NAMES[:3]
    ready, transcript = keyed(names)
    states, others = dict(ready), [name for at, name in enumerate(names) if at != away]
    for number in range(1, missed + 1):
        announced = announce(number, others, 32)
        for name in others:
            states[name], _ = upload(states[name], announced, [0] * SIZE, me=name)
    announced = announce(missed + 1, names, 32)
    uploads = {name: upload(states[name], announced, [5] * SIZE, me=name)[1] for name in names}
    opened = ring.decode(add(uploads, announcement=announced, transcript=transcript), bits=32)
    assert opened.tolist() == [15] * SIZE
    stale = announce(missed + 2, names, 32)
    made = {name: upload(states[name], stale, [5] * SIZE, me=name)[1] for name in names}
    with pytest.raises(ContextMismatch):
        add({**uploads, names[away]: made[names[away]]}, announcement=announced, transcript=transcript)


@settings(deadline=None, max_examples=40)
@given(
    told=st.lists(st.tuples(st.sampled_from("01"), st.booleans()), min_size=4, max_size=4),
    rows=st.lists(st.lists(integers(64), min_size=SIZE, max_size=SIZE), min_size=4, max_size=4),
)
def test_a_sum_opens_only_if_all_were_told_the_same(told, rows):
    names = NAMES[:4]
    ready, transcript = keyed(names)
    uploads, stories = {}, {}
    for name, (model, all_four), row in zip(names, told, rows, strict=True):
        stories[name] = announce(1, names if all_four or name == names[3] else names[:3], 64, model=model)
        _, uploads[name] = upload(ready[name], stories[name], row, me=name)
    for story in set(stories.values()):
        taken = {name: uploads[name] for name in story.hospitals}
        if all(stories[name] == story for name in story.hospitals):
            opened = ring.decode(add(taken, announcement=story, transcript=transcript), bits=64)
            there = [rows[names.index(name)] for name in story.hospitals]
            assert opened.tolist() == [signed(sum(column), 64) for column in zip(*there, strict=True)]
        else:
            with pytest.raises(ContextMismatch):
                add(taken, announcement=story, transcript=transcript)


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from(ring.RINGS),
    values=st.lists(st.integers(-(1 << 20), (1 << 20) - 1), min_size=1, max_size=24),
    cuts=st.lists(st.integers(0, 24), min_size=2, max_size=5),
)
def test_any_partition_of_the_rows_gives_the_same_sum(bits, values, cuts):
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [values[left:right] for left, right in itertools.pairwise(edges)]
    names = NAMES[: len(parts)]
    ready, transcript = keyed(names)
    announced = announce(1, names, bits)
    uploads = {}
    for name, part in zip(names, parts, strict=True):
        row = [len(part), sum(part), sum(part) << (bits - 30)]  # the last one wraps
        _, uploads[name] = upload(ready[name], announced, [signed(value, bits) for value in row], me=name)
    opened = ring.decode(add(uploads, announcement=announced, transcript=transcript), bits=bits)
    assert opened.tolist() == [len(values), signed(sum(values), bits), signed(sum(values) << (bits - 30), bits)]


def test_no_two_masks_of_a_study_share_a_derivation_label(make_federation, monkeypatch):
    """Every (key, info) of the derivation, over statistics, training, a void round and evaluation, in two runs.

    Each comes up once at either end of its pair and nowhere else; both ends are in this process.
    """
    derived, real = [], keys.expand

    def expand(key, *info, size=keys.SECRET_BYTES):
        derived.append((key, info))
        return real(key, *info, size=size)

    for module in (keys, masking):
        monkeypatch.setattr(module, "expand", expand)
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    lost = []

    def after(name, data):
        if name == "hosp-b" and federation.kind(data) == "upload" and wire.peek(data).body["round"] == 2 and not lost:
            return lost.append(data)
        return data

    one.after = after
    results = [one.run(wanted), one.run(wanted)]
    told = [(event["task"], event["state"]) for event in results[0]["rounds"]]
    assert ("train", "void") in told
    assert {task for task, state in told if state == "opened"} == {"gram", "train", "evaluate"}
    of = {label: [one for one in derived if one[1][0] == label] for label in {info[0] for _, info in derived}}
    ledger_keys = of.pop(post_quantum.DERIVATION)
    assert not {key for key, _ in ledger_keys} & {key for each in of.values() for key, _ in each}
    assert set(of) == {b"motet/mask/v1", b"motet/prg/v1", b"motet/ratchet/v1"}
    for label in (b"motet/mask/v1", b"motet/prg/v1"):
        assert set(Counter(of[label]).values()) == {2}
    masks = {info for _, info in of[b"motet/mask/v1"]}
    assert len(masks) == len({key for key, _ in of[b"motet/mask/v1"]}) == len(of[b"motet/mask/v1"]) / 2
    named = [len(event["hospitals"]) for result in results for event in result["rounds"]]
    assert len(of[b"motet/mask/v1"]) == sum(count * (count - 1) for count in named)
    assert max(Counter(of[b"motet/ratchet/v1"]).values()) == 2
    assert not {key for key, _ in of[b"motet/prg/v1"]} & {key for key, _ in of[b"motet/mask/v1"] + of[b"motet/ratchet/v1"]}
