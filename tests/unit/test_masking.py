"""Masks: two implementations agree, another context is another stream, and a masked zero looks like noise."""

import ast
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from common.crypto import keys, masking, ring
from tests.vectors import reference_masking

ROOT = Path(__file__).parents[2]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "masking.json").read_text())
NAMES = tuple(sorted(VECTORS["bundles"]))
PAIRS = tuple(combinations(NAMES, 2))
TRANSCRIPT = bytes.fromhex(VECTORS["transcript"])
CTX = bytes.fromhex(VECTORS["context"])


def of_pair(first, second):
    return VECTORS["pairs"][" ".join(sorted([first, second]))]


def seeds(me):
    return {peer: bytes.fromhex(of_pair(me, peer)["seed"]) for peer in NAMES if peer != me}


def test_the_second_implementation_still_writes_these_vectors():
    assert reference_masking.made() == VECTORS


def test_transcript_and_context_agree():
    bundles = {name: bytes.fromhex(data) for name, data in VECTORS["bundles"].items()}
    assert keys.transcript(bundles, roster_hash=VECTORS["roster_hash"], run=VECTORS["run"]) == TRANSCRIPT
    assert masking.context(TRANSCRIPT, announcement=VECTORS["announcement"].encode()) == CTX


@pytest.mark.parametrize("pair", PAIRS)
def test_pair_keys_seeds_and_commitments_agree_at_both_ends(pair):
    wanted = of_pair(*pair)
    secrets = dict(zip(pair, map(bytes.fromhex, wanted["secrets"]), strict=True))
    key = keys.pair_key(TRANSCRIPT, secrets=secrets)
    assert key.hex() == wanted["pair_key"]
    ratcheted = masking.ratchet(key, steps=VECTORS["round"])
    for ends in (pair, pair[::-1]):
        made = masking.seed(ratcheted, ctx=CTX, pair=ends)
        assert made.hex() == wanted["seed"]
        assert masking.commitment(made, ctx=CTX) == wanted["commitment"]


@pytest.mark.parametrize("bits", ring.RINGS)
@pytest.mark.parametrize("name", NAMES)
def test_masked_vectors_agree(name, bits):
    wanted = VECTORS["rings"][str(bits)]
    words = ring.encode(np.array([int(value) for value in wanted["values"][name]], object), bits=bits)
    masked = masking.mask(words, me=name, seeds=seeds(name), bits=bits)
    assert ring.to_bytes(masked).hex() == wanted["uploads"][name]
    assert (masked != words).any()


@pytest.mark.parametrize("bits", ring.RINGS)
def test_the_sum_of_the_uploads_is_the_sum_of_the_values(bits):
    wanted = VECTORS["rings"][str(bits)]
    uploads = [ring.from_bytes(bytes.fromhex(data), dimension=5, bits=bits) for data in wanted["uploads"].values()]
    total = ring.decode(ring.total(uploads, dimension=5, bits=bits), bits=bits)
    assert [str(value) for value in total] == wanted["sum"]


def test_another_context_pair_or_round_is_another_stream():
    key = b"k" * 32
    made = [
        masking.seed(masking.ratchet(key, steps=steps), ctx=ctx, pair=pair)
        for steps in range(4)
        for ctx in (b"c" * 32, b"d" * 32)
        for pair in (("a", "b"), ("a", "c"), ("b", "c"), ("ab", "c"), ("a", "bc"))
    ]
    assert len({masking.stream(one, dimension=4, bits=64).tobytes() for one in made}) == len(made)
    assert len({masking.commitment(one, ctx=b"c") for one in made}) == len(made)
    assert masking.commitment(made[0], ctx=b"c") != masking.commitment(made[0], ctx=b"d")


def test_a_context_is_bound_to_transcript_and_announcement():
    made = [
        masking.context(t, announcement=a) for t, a in ((b"t", b"a"), (b"t", b"b"), (b"u", b"a"), (b"ta", b""), (b"", b"ta"))
    ]
    assert len(set(made)) == len(made)


def test_ratcheting_step_by_step_is_ratcheting_at_once():
    key = b"k" * 32
    assert masking.ratchet(masking.ratchet(key, steps=2), steps=3) == masking.ratchet(key, steps=5)
    assert masking.ratchet(key, steps=0) == key


def test_a_vector_is_not_changed_in_place():
    words = ring.zeros(8, bits=64)
    masking.mask(words, me="a", seeds={"b": b"s" * 32}, bits=64)
    assert not words.any()


def plainly(words, *, me, seeds, bits):
    """Masks one whole key stream after the other."""
    for peer, seed in seeds.items():
        stream = masking.stream(seed, dimension=len(words), bits=bits)
        words = ring.add(words, stream) if me < peer else ring.subtract(words, stream)
    return words


@pytest.mark.parametrize("bits", ring.RINGS)
@pytest.mark.parametrize("past", [-1, 0, 1, 4321])
def test_chunks_and_threads_make_the_same_bytes(bits, past):
    size = 3 * ring.chunk_rows(bits=bits) + past
    of_me = {peer: peer.encode() * 32 for peer in "acde"}
    words = masking.stream(b"w" * 32, dimension=size, bits=bits)
    wanted = ring.to_bytes(plainly(words, me="b", seeds=of_me, bits=bits))
    for threads in (None, 1, 2, 3, 4, 7, 100):
        assert ring.to_bytes(masking.mask(words, me="b", seeds=of_me, bits=bits, threads=threads)) == wanted


@pytest.mark.parametrize("bits", ring.RINGS)
def test_a_large_vector_uses_the_cores_and_makes_the_same_bytes(bits, monkeypatch):
    words = ring.zeros(5 * ring.chunk_rows(bits=bits), bits=bits)
    alone = ring.to_bytes(masking.mask(words, me="b", seeds={"a": b"1" * 32}, bits=bits, threads=1))
    monkeypatch.setattr(masking, "THREADED_BYTES", 1)
    assert ring.to_bytes(masking.mask(words, me="b", seeds={"a": b"1" * 32}, bits=bits)) == alone


@pytest.mark.parametrize("bits", ring.RINGS)
def test_the_second_implementation_agrees_beyond_the_first_chunk(bits):
    size = 2 * ring.chunk_rows(bits=bits) + 5
    masked = masking.mask(ring.zeros(size, bits=bits), me="a", seeds={"b": b"s" * 32}, bits=bits, threads=2)
    assert ring.to_bytes(masked) == reference_masking.to_bytes(reference_masking.stream(b"s" * 32, size, bits), bits)


@pytest.mark.parametrize("blocks_left", [1, 2, 3, 8192, 8193])
def test_a_counter_wraps_alike_at_an_offset_and_from_the_start(blocks_left):
    key = b"k" * 32 + (2**128 - blocks_left).to_bytes(16, "big")
    whole = masking._encryptor(key, start=0).update(bytes(3 * ring.CHUNK_BYTES))
    for start in (16, 32, ring.CHUNK_BYTES, 2 * ring.CHUNK_BYTES):
        assert masking._encryptor(key, start=start).update(bytes(len(whole) - start)) == whole[start:]


@pytest.mark.parametrize("bits", ring.RINGS)
def test_words_of_another_ring_are_not_masked(bits):
    for other in [one for one in ring.RINGS if one != bits]:
        with pytest.raises(ValueError, match="another ring"):
            masking.mask(ring.zeros(4, bits=other), me="a", seeds={"b": b"s" * 32}, bits=bits)
    with pytest.raises(ValueError, match="another ring"):
        masking.mask(np.zeros(4, np.float32), me="a", seeds={"b": b"s" * 32}, bits=bits)


@pytest.mark.parametrize("threads", [0, -1])
def test_without_a_thread_nothing_is_masked(threads):
    with pytest.raises(ValueError, match="thread"):
        masking.mask(ring.zeros(4, bits=32), me="a", seeds={"b": b"s" * 32}, bits=32, threads=threads)


@pytest.mark.parametrize("bits", ring.RINGS)
def test_an_empty_vector_is_masked_to_an_empty_vector(bits):
    assert len(masking.mask(ring.zeros(0, bits=bits), me="a", seeds={"b": b"s" * 32}, bits=bits)) == 0


def product_labels():
    """Every domain separation label of the product, with the file that it stands in."""
    for folder in ("common", "client", "server"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and node.value.startswith(b"motet/"):
                    yield node.value


def test_no_two_derivation_labels_coincide():
    labels = Counter(product_labels())
    assert len(labels) >= 10
    assert {label for label, count in labels.items() if count > 1} == set()
    bare = [label.rstrip(b"\0") for label in labels]
    assert not [(one, other) for one in bare for other in bare if one != other and other.startswith(one)]


@pytest.mark.statistical
@pytest.mark.parametrize("bits", ring.RINGS)
def test_a_masked_zero_is_uniform(bits):
    # the seed is fixed, so is the outcome; a p-value below 1e-6 would be a biased stream, not chance
    dimension = (1 << 20) * 8 // bits
    masked = masking.mask(ring.zeros(dimension, bits=bits), me="b", seeds={"a": b"1" * 32, "c": b"2" * 32}, bits=bits)
    data = np.frombuffer(ring.to_bytes(masked), np.uint8)
    assert stats.chisquare(np.bincount(data, minlength=256)).pvalue > 1e-6
    pairs = data[:-1:2].astype(np.int64) * 256 + data[1::2]
    assert stats.chisquare(np.bincount(pairs, minlength=65536)).pvalue > 1e-6
    assert stats.binomtest(int(np.unpackbits(data).sum()), data.size * 8).pvalue > 1e-6
