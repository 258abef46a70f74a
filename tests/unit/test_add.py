"""Uploads to one sum: it opens only if everybody named uploaded in the same context."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from common.announcement import Announcement
from common.crypto import masking, ring
from common.crypto.adding import add
from common.errors import BadEnvelope, ContextMismatch, HospitalMissing, LateUpload
from common.mechanism import Exact
from common.wire import Envelope

NAMES = ("aalen", "berlin", "cadiz")
TRANSCRIPT = b"t" * 32
ROUND = Announcement(
    run="r",
    study="0" * 64,
    roster="1" * 64,
    round=4,
    hospitals=NAMES,
    task="gram",
    index=0,
    dimension=3,
    blob_sha256="2" * 64,
    mechanism=Exact(statistic="gram", ring_bits=128),
)
VALUES = {"aalen": [1, -5, 2**100], "berlin": [2, 5, -(2**100)], "cadiz": [3, -(2**120), 7]}


def uploads(*, announced=ROUND, bits=128):
    ctx = masking.context(TRANSCRIPT, announcement=announced.bytes())
    made = {}
    for me in NAMES:
        seeds = {peer: masking.seed(b"k" * 32, ctx=ctx, pair=(me, peer)) for peer in NAMES if peer != me}
        words = masking.mask(ring.encode(np.array(VALUES[me], object), bits=bits), me=me, seeds=seeds, bits=bits)
        made[me] = Envelope(
            kind="upload",
            sender=me,
            recipient="hub",
            run="r",
            body={
                "round": announced.round,
                "context": ctx.hex(),
                "commitments": {peer: masking.commitment(seed, ctx=ctx) for peer, seed in seeds.items()},
            },
            blob=ring.to_bytes(words),
        )
    return made


def opened(made):
    return ring.decode(add(made, announcement=ROUND, transcript=TRANSCRIPT), bits=128).tolist()


def told(name, **changes):
    made = uploads()
    return {**made, name: replace(made[name], body={**made[name].body, **changes})}


def test_the_sum_opens():
    assert opened(uploads()) == [sum(column) for column in zip(*VALUES.values(), strict=True)]


def test_the_sum_opens_whatever_the_order_of_arrival():
    assert opened(dict(reversed(uploads().items()))) == opened(uploads())


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_hospital_keeps_the_sum_closed(missing):
    with pytest.raises(HospitalMissing):
        opened({name: upload for name, upload in uploads().items() if name != missing})


def test_nobody_and_one_too_many_keep_the_sum_closed():
    with pytest.raises(HospitalMissing):
        opened({})
    with pytest.raises(HospitalMissing):
        opened({**uploads(), "dijon": uploads()["aalen"]})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", [{"context": "0" * 64}, {"context": None}, {"context": 1}, {"round": 5}, {"round": "4"}, {"round": None}], ids=str
)
def test_another_context_names_the_hospital(name, change):
    with pytest.raises(ContextMismatch, match=f"^{name} answered in another context"):
        opened(told(name, **change))


def test_an_upload_of_an_earlier_round_is_refused():
    earlier = uploads(announced=replace(ROUND, round=3))
    with pytest.raises(LateUpload, match="berlin"):
        opened({**uploads(), "berlin": earlier["berlin"]})


def test_another_transcript_is_another_context():
    with pytest.raises(ContextMismatch):
        add(uploads(), announcement=ROUND, transcript=b"u" * 32)


@pytest.mark.parametrize("pair", pairwise(NAMES))
def test_commitments_that_differ_name_the_pair(pair):
    first, second = pair
    made = uploads()[second].body["commitments"]
    with pytest.raises(ContextMismatch, match=f"^{first} and {second} were told different things"):
        opened(told(second, commitments={**made, first: "0" * 64}))


@pytest.mark.parametrize("commitments", [None, [], {}, "x", 1, {"aalen": 1, "cadiz": 1}, {"aalen": None}], ids=str)
def test_an_upload_without_commitments_is_refused(commitments):
    with pytest.raises(BadEnvelope, match="commitment"):
        opened(told("berlin", commitments=commitments))


@pytest.mark.parametrize("blob", [b"", b"\0" * 47, b"\0" * 49, b"\0" * 96])
def test_a_vector_of_another_length_is_refused(blob):
    made = uploads()
    with pytest.raises(BadEnvelope, match="another length"):
        opened({**made, "cadiz": replace(made["cadiz"], blob=blob)})


def test_a_refused_upload_is_found_before_any_vector_is_read():
    made = told("aalen", context="0" * 64)
    with pytest.raises(ContextMismatch):
        opened({**made, "berlin": replace(made["berlin"], blob=b"short")})


@pytest.mark.parametrize("bits", ring.RINGS)
def test_adding_takes_one_accumulator_and_no_copy_of_the_uploads(bits):
    dimension = 3 * ring.chunk_rows(bits=bits) + 1
    announced = replace(ROUND, dimension=dimension, mechanism=Exact(statistic="gram", ring_bits=bits))
    ctx = masking.context(TRANSCRIPT, announcement=announced.bytes())
    made = uploads(announced=announced)
    for me in NAMES:
        seeds = {peer: masking.seed(b"k" * 32, ctx=ctx, pair=(me, peer)) for peer in NAMES if peer != me}
        words = masking.mask(ring.zeros(dimension, bits=bits), me=me, seeds=seeds, bits=bits)
        made[me] = replace(made[me], blob=ring.to_bytes(words))
    tracemalloc.start()
    try:
        total = add(made, announcement=announced, transcript=TRANSCRIPT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not total.any()  # every mask cancelled, in every chunk
    assert peak <= total.nbytes + ring.CHUNK_BYTES
