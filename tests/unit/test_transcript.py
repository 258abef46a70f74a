"""What follows from all that the coordinator ever got: the allowed sums and nothing else, by linear algebra over the ring.

A mask stream that the coalition does not know is an unknown. A linear combination of uploads tells something exactly when it
is free of unknowns: such combinations form the left null space of the matrix (upload, stream) -> -1, 0, 1. Streams are told
apart by the real derivation: the bytes of the seeds that real sessions derive from real announcements.
"""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from client import session
from client.session import Session
from common.announcement import Announcement
from common.crypto import masking, ring
from common.crypto.keys import SetupKey
from common.errors import RoundRepeated
from common.mechanism import Exact

PRIMES = (2, 3, 65537, (1 << 61) - 1)
ROSTER = "ab" * 32
BITS, SIZE = 64, 3


def federation(names, *, run="r1"):
    """Return the sessions of hospitals that set up pair keys with one another."""
    states = {name: Session(run=run, study="s", roster=ROSTER, setup_key=SetupKey.generate().private_bytes()) for name in names}
    bundles = {name: SetupKey.from_bytes(state.setup_key).public_bytes() for name, state in states.items()}
    sent = {}
    for name in names:
        states[name], sent[name] = states[name].with_bundles(bundles, me=name)
    return {
        name: state.with_sealed({peer: sent[peer][name] for peer in names if peer != name}, me=name)
        for name, state in states.items()
    }


def story(number, hospitals, *, model="0", run="r1"):
    return Announcement(
        run=run,
        study="1" * 64,
        roster=ROSTER,
        round=number,
        hospitals=tuple(sorted(hospitals)),
        task="evaluate",
        index=1,
        dimension=SIZE,
        blob_sha256=model * 64,
        mechanism=Exact(statistic="score-histogram", ring_bits=BITS),
    )


class Transcript:
    """All uploads of a run, as the coordinator has them, beside what it must not learn."""

    def __init__(self, names, *, run="r1"):
        self.states, self.run = federation(names, run=run), run
        self.random = np.random.default_rng(11)
        self.uploads = []  # (hospital, announcement, context, seeds, plain, masked)

    def tell(self, name, announced):
        """One hospital answers one announcement, by the real rules and the real derivation."""
        state, used = self.states[name].with_round(
            announced.round, hospitals=announced.hospitals, me=name, request=announced.bytes() + name.encode()
        )
        ctx = masking.context(state.transcript, announcement=announced.bytes())
        seeds = session.seeds(used, ctx=ctx, me=name)
        plain = self.random.integers(-(2**40), 2**40, SIZE)
        masked = masking.mask(ring.encode(plain, bits=BITS), me=name, seeds=seeds, bits=BITS)
        self.states[name] = state
        self.uploads.append((name, announced, ctx, seeds, plain, masked))

    def round(self, number, hospitals, *, missing="", **about):
        """One honest round; `missing` never upload, which makes it void."""
        for name in hospitals:
            if name not in missing:
                self.tell(name, story(number, hospitals, run=self.run, **about))


def sign(name, peer, seed):
    """Return how the stream of `seed` enters an upload of `name`: +1 or -1, by the real mask."""
    stream = masking.stream(seed, dimension=SIZE, bits=BITS)
    masked = masking.mask(ring.zeros(SIZE, bits=BITS), me=name, seeds={peer: seed}, bits=BITS)
    if (masked == stream).all():
        return 1
    assert (ring.add(masked, stream) == 0).all()
    return -1


def incidence(uploads, colluders):
    """Return the matrix of uploads and the streams that no colluder knows; a colluder knows those of its own pairs."""
    column, rows = {}, []
    for name, _, _, seeds, *_ in uploads:
        row = {}
        for peer, seed in seeds.items():
            if name not in colluders and peer not in colluders:
                row[column.setdefault(seed, len(column))] = sign(name, peer, seed)
        rows.append(row)
    matrix = np.zeros((len(uploads), len(column)), object)
    for at, row in enumerate(rows):
        for where, value in row.items():
            matrix[at, where] = value
    return matrix


def allowed(uploads, colluders):
    """Return what the coalition may learn, as combinations of uploads: its own ones, and each context's honest sum if whole."""
    rows = [np.eye(len(uploads), dtype=int)[at] for at, one in enumerate(uploads) if one[0] in colluders]
    for ctx in {one[2] for one in uploads}:
        there = {one[0]: at for at, one in enumerate(uploads) if one[2] == ctx}
        announced = next(one[1] for one in uploads if one[2] == ctx)
        honest = set(announced.hospitals) - set(colluders)
        if honest and honest <= set(there):
            row = np.zeros(len(uploads), int)
            row[[there[name] for name in honest]] = 1
            rows.append(row)
    return np.array(rows, object).reshape(len(rows), len(uploads))


def rank(matrix, prime):
    """Return the rank over the field of `prime` elements."""
    rows = [[int(value) % prime for value in row] for row in matrix]
    done = 0
    for at in range(len(rows[0]) if rows else 0):
        pivot = next((row for row in range(done, len(rows)) if rows[row][at]), None)
        if pivot is None:
            continue
        rows[done], rows[pivot] = rows[pivot], rows[done]
        inverse = pow(rows[done][at], -1, prime)
        rows[done] = [value * inverse % prime for value in rows[done]]
        for row in range(len(rows)):
            if row != done and rows[row][at]:
                factor = rows[row][at]
                rows[row] = [(left - factor * right) % prime for left, right in zip(rows[row], rows[done], strict=True)]
        done += 1
    return done


def nothing_else(transcript, colluders=""):
    """Assert that the free combinations are the span of the allowed ones; return how many uploads, streams and sums there are.

    The ranks agree over several fields, 2 among them: so the null space over Z_2^k is free, of the same dimension, for every k.
    """
    matrix, sums = incidence(transcript.uploads, colluders), allowed(transcript.uploads, colluders)
    if matrix.size and len(sums):
        assert not sums.dot(matrix).any()  # every allowed sum opens
    for prime in PRIMES:
        free = len(transcript.uploads) - (rank(matrix, prime) if matrix.size else 0)
        assert free == len(sums) == rank(sums, prime), (free, len(sums))
    return (*matrix.shape, len(sums))


def collusions(names):
    return ["".join(chosen) for count in range(len(names) - 1) for chosen in combinations(names, count)]


@pytest.mark.parametrize("names", ["abc", "abcd", "abcde"])
def test_a_run_of_honest_rounds_gives_its_sums_under_any_collusion(names):
    transcript = Transcript(names)
    for number in (1, 2, 5):
        transcript.round(number, names)
    for colluders in collusions(names):
        _, streams, sums = nothing_else(transcript, colluders)
        honest = len(names) - len(colluders)
        assert (streams, sums) == (3 * honest * (honest - 1) // 2, 3 * (1 + len(colluders)))


def test_void_rounds_and_changing_rosters_give_the_opened_sums_alone():
    transcript = Transcript("abcde")
    transcript.round(1, "abcde")
    transcript.round(2, "abcde", missing="c")  # void: four uploads, no sum
    transcript.round(3, "abde")
    transcript.round(4, "abcd", missing="ab")
    transcript.round(7, "bcde")
    transcript.round(8, "abcde")
    assert nothing_else(transcript) == (4 + 5 + 4 + 2 + 4 + 5, 10 + 10 + 6 + 5 + 6 + 10, 4)
    for colluders in collusions("abcde"):
        if len(colluders) <= 2:
            nothing_else(transcript, colluders)


def test_a_void_round_opens_when_all_who_are_missing_collude_and_gives_the_honest_sum():
    """Whoever colludes has its streams anyway: the round was not void for the coalition, and the sum is the allowed one."""
    transcript = Transcript("abcde")
    transcript.round(1, "abcde", missing="e")
    assert nothing_else(transcript)[2] == 0
    row = allowed(transcript.uploads, "e")
    assert row.tolist() == [[1, 1, 1, 1]]
    assert nothing_else(transcript, "e")[2] == 1


def test_one_round_announced_with_two_rosters_gives_nothing():
    """The lying retry: half of the hospitals are told one roster, half another; contexts differ, and so do all streams."""
    transcript = Transcript("abcd")
    transcript.round(1, "abcd")
    for name in "ab":
        transcript.tell(name, story(2, "abcd"))
    for name in "cd":
        transcript.tell(name, story(2, "bcd"))
    assert nothing_else(transcript) == (8, 6 + 5 + 3, 1)
    sums = {colluder: nothing_else(transcript, colluder)[2] for colluder in "abcd"}
    assert sums == {"a": 1 + 2, "b": 1 + 2 + 1, "c": 1 + 2, "d": 1 + 2}  # where b lies, both honest ones of bcd uploaded


def test_one_round_announced_with_two_models_gives_nothing():
    transcript = Transcript("abcd")
    for name, model in zip("abcd", "0011", strict=True):
        transcript.tell(name, story(1, "abcd", model=model))
    assert nothing_else(transcript)[2] == 0
    for colluders in "abcd":
        assert nothing_else(transcript, colluders)[2] == 1  # its own upload


def test_every_way_to_lie_about_one_round_gives_a_whole_story_or_nothing():
    """Every hospital is told one of two stories, or nothing; over two rosters and two models, and an honest round after it."""
    names, opened = "abcd", 0
    base = Transcript(names)
    for stories in ((story(1, "abcd"), story(1, "abc")), (story(1, "abcd"), story(1, "abcd", model="f"))):
        for told in product((0, 1, None), repeat=4):
            transcript = Transcript.__new__(Transcript)
            transcript.states, transcript.run = dict(base.states), "r1"
            transcript.random, transcript.uploads = base.random, []
            for name, which in zip(names, told, strict=True):
                if which is not None and name in stories[which].hospitals:
                    transcript.tell(name, stories[which])
            transcript.round(2, names)
            sums = nothing_else(transcript)[2]
            opened += sums - 1
            assert sums <= 2
            nothing_else(transcript, "a")
    assert opened == 2 * 1 + 1 + 3  # all told the first story, or the other model; three told of three, and a fourth anything


def test_no_hospital_can_be_made_to_tell_both_stories():
    transcript = Transcript("abc")
    transcript.tell("a", story(1, "abc"))
    with pytest.raises(RoundRepeated):
        transcript.tell("a", story(1, "abc", model="f"))


def test_two_runs_at_once_share_no_stream():
    first, second = Transcript("abcd", run="r1"), Transcript("abcd", run="r2")
    first.round(1, "abcd")
    second.round(1, "abc")
    together = Transcript.__new__(Transcript)
    together.uploads = first.uploads + second.uploads
    assert nothing_else(together) == (7, 9, 2)


def free_over(matrix, modulus):
    """Return every combination with coefficients modulo `modulus` that is free of unknowns, by trying them all."""
    every = np.array(list(product(range(modulus), repeat=len(matrix))))
    return every[~(every @ matrix.astype(int) % modulus).any(axis=1)]


@pytest.mark.parametrize("modulus", [2, 4, 8])
def test_the_same_by_trying_every_combination_over_the_ring(modulus):
    """Over Z_2^k itself, without any theorem: what is free is a combination of the allowed sums."""
    transcript = Transcript("abc")
    transcript.round(1, "abc")
    transcript.tell("a", story(2, "abc"))
    transcript.tell("b", story(2, "abc", model="f"))
    if modulus < 8:
        transcript.tell("c", story(2, "abc"))
    for colluders in ("", "c"):
        matrix, sums = incidence(transcript.uploads, colluders), allowed(transcript.uploads, colluders)
        coefficients = np.array(list(product(range(modulus), repeat=len(sums))))
        span = {tuple(row) for row in coefficients @ sums.astype(int) % modulus}
        assert {tuple(row) for row in free_over(matrix, modulus)} == span
        assert len(span) == modulus ** len(sums)


def test_what_is_free_opens_and_what_is_not_is_noise():
    """The matrix is about the real bytes: an allowed combination gives the plain sum, one upload less does not."""
    transcript = Transcript("abcd")
    transcript.round(1, "abcd")
    transcript.round(2, "abc", missing="a")
    for row in allowed(transcript.uploads, ""):
        chosen = [one for one, weight in zip(transcript.uploads, row, strict=True) if weight]
        opened = ring.decode(ring.total([one[5] for one in chosen], dimension=SIZE, bits=BITS), bits=BITS)
        assert (opened == sum(one[4] for one in chosen)).all()
        short = ring.decode(ring.total([one[5] for one in chosen[1:]], dimension=SIZE, bits=BITS), bits=BITS)
        assert (np.abs(short) > 2**43).any()


def test_one_honest_hospital_alone_would_be_seen():
    """The check can fail: where all others collude, the sum of the honest is one hospital's. Policy demands two."""
    transcript = Transcript("abc")
    transcript.round(1, "abc")
    assert nothing_else(transcript, "bc") == (3, 0, 3)


def test_streams_used_twice_would_be_seen():
    """The check can fail: two uploads under the same seeds give their difference, which is no allowed sum."""
    transcript = Transcript("abc")
    transcript.round(1, "abc")
    name, announced, _, seeds, plain, masked = transcript.uploads[0]
    forged = replace(announced, round=1, blob_sha256="e" * 64)
    transcript.uploads.append((name, forged, b"other", seeds, plain, masked))
    with pytest.raises(AssertionError):
        nothing_else(transcript)
