"""The Merkle tree over the entries: roots, and proofs that an entry is in a tree or that a tree grew out of an older one."""

import hashlib
from collections.abc import Iterable, Sequence

from common.errors import RecordDamaged

EMPTY = hashlib.sha256(b"").digest()
HASH_BYTES = 32


class Frontier:
    """The roots of the full subtrees of a growing tree: append and root cost O(log n)."""

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        _check_hashes(leaf)
        self._peaks.append(leaf)
        self.size += 1
        filled = self.size
        while filled % 2 == 0:
            right = self._peaks.pop()
            self._peaks[-1] = node_hash(self._peaks[-1], right)
            filled //= 2

    def root(self) -> bytes:
        """Return the root of all leaves so far; the empty tree has SHA-256 of nothing."""
        if not self._peaks:
            return EMPTY
        result = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            result = node_hash(peak, result)
        return result


class Tree:
    """A growing tree that keeps the hashes of all its full subtrees: roots of any earlier size and proofs cost O(log n).

    Memory: about 2 n hashes.
    """

    __slots__ = ("_levels",)

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]  # level k, place i: the root of leaves i * 2**k to (i + 1) * 2**k
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash; raises RecordDamaged unless it has 32 bytes."""
        _check_hashes(leaf)
        self._levels[0].append(leaf)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            self._levels[level + 1].append(node_hash(*self._levels[level][-2:]))
            level += 1

    def root(self, *, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves, of all where none is given; raises IndexError beyond them."""
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise IndexError("no such size")
        return self._range(0, size) if size else EMPTY

    def inclusion_proof(self, index: int, *, size: int) -> tuple[bytes, ...]:
        """Return the audit path of leaf `index` in the first `size` leaves, bottom first; raises IndexError outside."""
        if not 0 <= index < size <= self.size:
            raise IndexError("no such leaf")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return tuple(reversed(path))

    def consistency_proof(self, old_size: int, *, size: int) -> tuple[bytes, ...]:
        """Return the proof that the first `old_size` leaves are a prefix of the first `size`; empty for 0 and for all."""
        if not 0 <= old_size <= size <= self.size:
            raise IndexError("no such size")
        if old_size in {0, size}:
            return ()
        path: list[bytes] = []
        low, high, inside = 0, size, False
        while old_size != high:
            middle = low + _split(high - low)
            if old_size <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low, inside = middle, True
        if inside:
            path.append(self._range(low, high))
        return tuple(reversed(path))

    def _range(self, low: int, high: int) -> bytes:
        """Return the root of the leaves from `low` to `high`, where `low` is a multiple of the range's full subtree."""
        width = high - low
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._levels[level][low >> level]
        middle = low + _split(width)
        return node_hash(self._range(low, middle), self._range(middle, high))


def leaf_hash(data: bytes) -> bytes:
    """Return SHA-256(0x00 || data). Source: RFC 6962, 2.1."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right). Source: RFC 6962, 2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes of 32 bytes each; raises RecordDamaged on another length."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index`, bottom first; raises IndexError outside. Source: RFC 6962, 2.1.1."""
    return Tree(leaves).inclusion_proof(index, size=len(leaves))


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """Return the proof that the first `old_size` leaves are a prefix; empty for 0 and for all. Source: RFC 6962, 2.1.2."""
    return Tree(leaves).consistency_proof(old_size, size=len(leaves))


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> None:
    """Check that `leaf` is entry `index` of the tree; raises RecordDamaged. Source: RFC 9162, 2.1.3.2."""
    _check_hashes(leaf, root_hash, *proof)
    if not 0 <= index < size:
        raise _damaged("The proof is for an entry outside the tree.")
    position, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _damaged("The inclusion proof is too long.")
        if position & 1 or position == last:
            result = node_hash(sibling, result)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        position, last = position >> 1, last >> 1
    if last or result != root_hash:
        raise _damaged("The entry is not in the tree.")


def verify_consistency(*, old_size: int, size: int, old_root: bytes, root_hash: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree grew by appending only; raises RecordDamaged.

    An old size of 0 with an empty proof holds, as C2SP witnesses accept. Source: RFC 9162, 2.1.4.2.
    """
    _check_hashes(old_root, root_hash, *proof)
    if not 0 <= old_size <= size:
        raise _damaged("The older tree is larger than the newer one.")
    if old_size == 0 and old_root != EMPTY:
        raise _damaged("The empty tree has another root.")
    if old_size in {0, size}:
        if proof or (old_size == size and old_root != root_hash):
            raise _damaged("Two trees of one size differ, or a proof came that none was needed for.")
        return
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path:
        raise _damaged("The consistency proof is empty.")
    trailing = ((old_size - 1) ^ old_size).bit_length() - 1  # ones at the end of old_size - 1
    if _climb(path, (old_size - 1) >> trailing, (size - 1) >> trailing) != (old_root, root_hash):
        raise _damaged("The tree was rewritten: the older one is not its beginning.")


def _climb(path: Sequence[bytes], position: int, last: int) -> tuple[bytes, bytes]:
    """Return the old and the new root that a consistency proof leads to."""
    old_result = new_result = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _damaged("The consistency proof is too long.")
        if position & 1 or position == last:
            old_result = node_hash(sibling, old_result)
            new_result = node_hash(sibling, new_result)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            new_result = node_hash(new_result, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise _damaged("The consistency proof is too short.")
    return old_result, new_result


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def _check_hashes(*hashes: bytes) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise _damaged("A hash does not have 32 bytes.")


def _damaged(what: str) -> RecordDamaged:
    return RecordDamaged(what, action="Do not trust this record; ask the hospital for the original.")
