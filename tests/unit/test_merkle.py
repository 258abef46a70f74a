"""The Merkle tree: published vectors, every proof up to 64 entries, and an independent library."""

import json
from pathlib import Path

import pytest
from tlog_scales import tlog

from common.errors import RecordDamaged
from common.ledger import merkle

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text())
LEAVES = [merkle.leaf_hash(bytes([number])) for number in range(65)]


def test_hashes_are_those_of_rfc_6962():
    assert merkle.EMPTY.hex() == merkle.root([]).hex() == VECTORS["empty"]
    for data, digest in VECTORS["leaves"]:
        assert merkle.leaf_hash(bytes.fromhex(data)).hex() == digest
    node = VECTORS["node"]
    assert merkle.node_hash(bytes.fromhex(node["left"]), bytes.fromhex(node["right"])).hex() == node["hash"]


def test_roots_of_the_reference_tree():
    leaves = [merkle.leaf_hash(bytes.fromhex(data)) for data in VECTORS["tree"]]
    assert [merkle.root(leaves[:size]).hex() for size in range(1, 9)] == VECTORS["roots"]


def test_every_proof_up_to_64_entries_holds():
    proofs = 0
    for size in range(1, 65):
        root = merkle.root(LEAVES[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(LEAVES[:size], index)
            merkle.verify_inclusion(leaf=LEAVES[index], index=index, size=size, proof=proof, root_hash=root)
            proofs += 1
        for old in range(size + 1):
            proof = merkle.consistency_proof(LEAVES[:size], old)
            merkle.verify_consistency(old_size=old, size=size, old_root=merkle.root(LEAVES[:old]), root_hash=root, proof=proof)
            proofs += 1
    assert proofs == 4224


def test_an_independent_library_accepts_our_proofs():
    for size in (1, 2, 3, 7, 8, 33, 64):
        root = merkle.root(LEAVES[:size])
        for index in range(size):
            tlog.InclusionProof(index, size, list(merkle.inclusion_proof(LEAVES[:size], index))).check(LEAVES[index], root)
        for old in range(1, size + 1):
            proof = tlog.ConsistencyProof(old, size, list(merkle.consistency_proof(LEAVES[:size], old)))
            proof.check(merkle.root(LEAVES[:old]), root)
    with pytest.raises(tlog.InclusionProofInvalid):  # it can say no
        tlog.InclusionProof(0, 8, list(merkle.inclusion_proof(LEAVES[:8], 0))).check(LEAVES[1], merkle.root(LEAVES[:8]))
    with pytest.raises(tlog.ConsistencyProofInvalid):
        tlog.ConsistencyProof(3, 8, list(merkle.consistency_proof(LEAVES[:8], 3))).check(LEAVES[0], merkle.root(LEAVES[:8]))


def test_a_changed_longer_or_shorter_proof_is_refused():
    size, root, old_root = 21, merkle.root(LEAVES[:21]), merkle.root(LEAVES[:13])
    included, consistent = list(merkle.inclusion_proof(LEAVES[:21], 5)), list(merkle.consistency_proof(LEAVES[:21], 13))

    def changed(proof):
        yield from ([*proof[:at], bytes([proof[at][0] ^ 1, *proof[at][1:]]), *proof[at + 1 :]] for at in range(len(proof)))
        yield [*proof, proof[0]]
        yield proof[:-1]
        yield []

    for bad in changed(included):
        with pytest.raises(RecordDamaged):
            merkle.verify_inclusion(leaf=LEAVES[5], index=5, size=size, proof=bad, root_hash=root)
    for bad in changed(consistent):
        with pytest.raises(RecordDamaged):
            merkle.verify_consistency(old_size=13, size=size, old_root=old_root, root_hash=root, proof=bad)


def test_a_hash_that_is_not_32_bytes_is_refused():
    with pytest.raises(RecordDamaged, match="32 bytes"):
        merkle.verify_inclusion(leaf=b"", index=0, size=1, proof=[], root_hash=b"")
    with pytest.raises(RecordDamaged, match="32 bytes"):
        merkle.root([b"short"])


@pytest.mark.parametrize(("old", "size"), [(3, 2), (-1, 2), (0, 2)])
def test_a_tree_that_shrank_or_a_false_empty_tree_is_refused(old, size):
    with pytest.raises(RecordDamaged):
        merkle.verify_consistency(old_size=old, size=size, old_root=LEAVES[0], root_hash=LEAVES[1], proof=[])


def test_an_entry_outside_the_tree_is_refused():
    with pytest.raises(RecordDamaged):
        merkle.verify_inclusion(leaf=LEAVES[0], index=1, size=1, proof=[], root_hash=LEAVES[0])
    with pytest.raises(IndexError):
        merkle.inclusion_proof(LEAVES, 65)
    with pytest.raises(IndexError):
        merkle.consistency_proof(LEAVES, 66)
