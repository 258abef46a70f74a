"""Replies in pieces: any cut gives the same as the whole, any changed byte is refused, any interleaving the same sum."""

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from common import wire
from common.announcement import Announcement
from common.crypto import masking, ring
from common.crypto.adding import Adder, add
from common.errors import BadEnvelope, HospitalMissing, MotetError, SecondUpload
from common.mechanism import Exact
from common.wire import Envelope, Incoming

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
SENT = Envelope(kind="upload", sender="aalen", recipient="hub", run="r1", body={"round": 1}, blob=bytes(range(97)))
DATA = wire.seal(SENT, key=KEY)
FRONT = len(DATA) - len(SENT.blob)


def incoming(took, *, key=KEY, sender="aalen", begin=None):
    def started(head, blob_bytes):
        took.append((head, blob_bytes))
        return lambda piece: took.append(bytes(piece))

    return Incoming(key=key.public_key(), sender=sender, recipient="hub", begin=begin or started)


def pieces(data, cuts):
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(at)]


def opened(one, data, cuts):
    for piece in pieces(data, cuts):
        one.take(piece)
    return one.end()


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(cuts=CUTS, view=st.booleans())
def test_any_cut_into_pieces_opens_as_the_whole(cuts, view):
    took = []
    one = incoming(took)
    for piece in pieces(DATA, cuts):
        one.take(memoryview(piece) if view else piece)
    whole = wire.open_envelope(DATA, key=KEY.public_key(), sender="aalen", recipient="hub")
    assert replace(one.end(), blob=b"".join(took[1:])) == whole == SENT
    assert took[0] == (replace(SENT, blob=b""), len(SENT.blob))
    assert one.whole


@given(cuts=CUTS, at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_any_changed_byte_is_refused_and_a_head_is_checked_before_any_of_its_blob_is_passed_on(cuts, at, flip):
    took = []
    one = incoming(took)
    spoiled = bytearray(DATA)
    spoiled[at] ^= flip
    with pytest.raises(BadEnvelope):
        opened(one, bytes(spoiled), cuts)
    assert (took == []) == (at < FRONT)
    with pytest.raises(BadEnvelope):
        one.end()


@given(cuts=CUTS, size=st.integers(0, len(DATA) - 1))
def test_any_truncation_is_refused(cuts, size):
    one = incoming([])
    for piece in pieces(DATA[:size], cuts):
        one.take(piece)
    assert not one.whole
    with pytest.raises(BadEnvelope, match="truncated"):
        one.end()


@given(cuts=CUTS, more=st.binary(min_size=1, max_size=20))
def test_bytes_after_the_end_are_a_second_upload_and_spoil_the_first(cuts, more):
    one = incoming([])
    with pytest.raises(SecondUpload):
        opened(one, DATA + more, [*cuts, len(DATA)])
    for _ in range(2):
        with pytest.raises(BadEnvelope):
            one.take(b"")
        with pytest.raises(BadEnvelope):
            one.end()


@given(junk=st.binary(max_size=300), cuts=CUTS)
def test_no_bytes_raise_anything_but_bad_envelope(junk, cuts):
    for data in (junk, wire.MAGIC + junk):
        one = incoming([])
        with pytest.raises(BadEnvelope):
            opened(one, data, cuts)


@pytest.mark.parametrize(("key", "sender"), [(OTHER, "aalen"), (KEY, "berlin")])
def test_somebody_elses_is_refused_before_it_begins(key, sender):
    took = []
    with pytest.raises(BadEnvelope):
        incoming(took, key=key, sender=sender).take(DATA)
    assert took == []


def test_what_begin_refuses_stays_refused():
    def begin(_head, _blob_bytes):
        raise HospitalMissing("no", action="no")

    one = incoming([], begin=begin)
    with pytest.raises(HospitalMissing):
        one.take(DATA[:FRONT])
    with pytest.raises(BadEnvelope):
        one.take(DATA[FRONT:])
    with pytest.raises(BadEnvelope):
        one.end()


NAMES = ("aalen", "berlin", "cadiz")
TRANSCRIPT = b"t" * 32


def announced(*, bits, dimension):
    return Announcement(
        run="r",
        study="0" * 64,
        roster="1" * 64,
        round=1,
        hospitals=NAMES,
        task="gram",
        index=0,
        dimension=dimension,
        blob_sha256="2" * 64,
        mechanism=Exact(statistic="gram", ring_bits=bits),
    )


def uploads(round_, *, seed):
    bits, ctx = round_.mechanism.ring_bits, masking.context(TRANSCRIPT, announcement=round_.bytes())
    random = np.random.default_rng(seed)
    made = {}
    for me in NAMES:
        seeds = {peer: masking.seed(b"k" * 32, ctx=ctx, pair=(me, peer)) for peer in NAMES if peer != me}
        words = ring.from_bytes(random.bytes(round_.dimension * bits // 8), dimension=round_.dimension, bits=bits)
        body = {
            "round": 1,
            "context": ctx.hex(),
            "commitments": {peer: masking.commitment(seed_, ctx=ctx) for peer, seed_ in seeds.items()},
        }
        made[me] = Envelope(kind="upload", sender=me, recipient="hub", run="r", body=body, blob=ring.to_bytes(words))
    return made


@settings(max_examples=25)
@given(
    bits=st.sampled_from(ring.RINGS),
    dimension=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    cuts=st.tuples(CUTS, CUTS, CUTS),
)
def test_any_interleaving_of_pieces_from_threads_gives_the_rings_total(bits, dimension, seed, cuts):
    round_ = announced(bits=bits, dimension=dimension)
    made = uploads(round_, seed=seed)
    adder = Adder(announcement=round_, transcript=TRANSCRIPT)
    start = threading.Barrier(len(NAMES))

    def send(name, mine):
        start.wait(5)
        take = adder.begin(name, replace(made[name], blob=b""), len(made[name].blob))
        for piece in pieces(made[name].blob, mine):
            take(memoryview(piece))

    threads = [threading.Thread(target=send, args=pair) for pair in zip(NAMES, cuts, strict=True)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    vectors = [ring.from_bytes(one.blob, dimension=dimension, bits=bits) for one in made.values()]
    total = ring.to_bytes(ring.total(vectors, dimension=dimension, bits=bits))
    assert ring.to_bytes(adder.total(made)) == total
    assert ring.to_bytes(add(made, announcement=round_, transcript=TRANSCRIPT)) == total


@pytest.mark.parametrize("change", [{"round": 0}, {"round": 2}, {"context": "0" * 64}, {"commitments": {}}, {"round": None}])
def test_a_wrong_head_is_refused_before_any_word_is_added(change):
    round_ = announced(bits=64, dimension=4)
    made = uploads(round_, seed=1)
    adder = Adder(announcement=round_, transcript=TRANSCRIPT)
    with pytest.raises(MotetError):
        adder.begin("berlin", replace(made["berlin"], body={**made["berlin"].body, **change}), 32)
    for wrong in (0, 31, 33, 1 << 30):
        with pytest.raises(BadEnvelope, match="another length"):
            adder.begin("berlin", made["berlin"], wrong)
    with pytest.raises(HospitalMissing):
        adder.total({})
