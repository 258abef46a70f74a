"""Signed uploads to one sum. It opens only if every hospital of the round uploaded in the same context."""

import threading
from collections.abc import Callable, Mapping

from common.announcement import Announcement
from common.crypto import masking, ring
from common.errors import BadEnvelope, ContextMismatch, HospitalMissing, LateUpload
from common.wire import Envelope


def add(uploads: Mapping[str, Envelope], *, announcement: Announcement, transcript: bytes) -> ring.Words:
    """Return the sum of the hospitals' whole vectors in the ring; the masks cancel.

    Checks, in this order: (1) exactly the named hospitals uploaded, (2) each one's context is the round's and its vector has
    the right length, (3) both ends of every pair commit to the same seed; a mismatch names the pair before any sum exists.
    Raises HospitalMissing, ContextMismatch, LateUpload or BadEnvelope. There is no function from one upload to anything.
    Source: reference secure-sum.md, section 0, step 4.
    """
    _exactly_the_named(uploads, announcement=announcement)  # (1)
    ctx = masking.context(transcript, announcement=announcement.bytes()).hex()
    for name, upload in uploads.items():  # (2)
        _check_head(upload, blob_bytes=len(upload.blob), name=name, announcement=announcement, ctx=ctx)
    _pairs_agree(uploads, announcement=announcement)  # (3)
    bits = announcement.mechanism.ring_bits
    vectors = [
        ring.from_bytes(uploads[name].blob, dimension=announcement.dimension, bits=bits) for name in announcement.hospitals
    ]
    return ring.total(vectors, dimension=announcement.dimension, bits=bits)


class Adder:
    """Adds a round's uploads as their bytes arrive, from several threads. Memory: one vector, however many hospitals.

    The same checks as `add`, those of (2) before any byte of a hospital's vector is taken. When a hospital's bytes turn out
    wrong after some of them were added, the round is void and so is this adder: nobody asks it for the total.
    """

    def __init__(self, *, announcement: Announcement, transcript: bytes) -> None:
        """Start from zero."""
        self._announcement = announcement
        self._ctx = masking.context(transcript, announcement=announcement.bytes()).hex()
        self._bits = announcement.mechanism.ring_bits
        self._total = ring.zeros(announcement.dimension, bits=self._bits)
        self._lock = threading.Lock()

    def begin(self, name: str, head: Envelope, blob_bytes: int) -> Callable[[memoryview], None]:
        """Check one hospital's head; return what takes the bytes of its vector, in order, piece by piece."""
        _check_head(head, blob_bytes=blob_bytes, name=name, announcement=self._announcement, ctx=self._ctx)
        entry, rest, width = 0, b"", self._bits // 8

        def take(piece: memoryview) -> None:
            nonlocal entry, rest
            data = memoryview(rest + bytes(piece)) if rest else piece
            whole = len(data) - len(data) % width  # a piece may end within a word
            if whole:
                words = ring.wire_view(data[:whole], bits=self._bits)
                with self._lock:
                    ring.add_into(self._total[entry : entry + len(words)], words)
                entry += len(words)
            rest = bytes(data[whole:])

        return take

    def total(self, heads: Mapping[str, Envelope]) -> ring.Words:
        """Return the sum. `heads`: the hospitals whose whole vector was added, by the envelopes that carried them."""
        _exactly_the_named(heads, announcement=self._announcement)
        _pairs_agree(heads, announcement=self._announcement)
        return self._total


def _exactly_the_named(uploads: Mapping[str, Envelope], *, announcement: Announcement) -> None:
    if set(uploads) != set(announcement.hospitals):
        raise HospitalMissing("Not every hospital of the round uploaded.", action="Announce the next round without it.")


def _check_head(head: Envelope, *, blob_bytes: int, name: str, announcement: Announcement, ctx: str) -> None:
    number = head.body.get("round")
    if isinstance(number, int) and number < announcement.round:
        raise LateUpload(f"{name} sent the upload of a round that is over.", action="Nothing: it is not used.")
    if head.body.get("context") != ctx or number != announcement.round:
        raise ContextMismatch(f"{name} answered in another context.", action="Void the round.")
    for peer in announcement.hospitals:
        if peer != name:
            _commitment(head, peer)
    if blob_bytes != ring.size_bytes(announcement.dimension, bits=announcement.mechanism.ring_bits):
        raise BadEnvelope(f"{name} sent a vector of another length.", action="Void the round.")


def _pairs_agree(heads: Mapping[str, Envelope], *, announcement: Announcement) -> None:
    for name in announcement.hospitals:
        for peer in announcement.hospitals:
            if name < peer and _commitment(heads[name], peer) != _commitment(heads[peer], name):
                error = ContextMismatch(f"{name} and {peer} were told different things.", action="Void the round.")
                error.hospitals = (name, peer)
                raise error


def _commitment(upload: Envelope, peer: str) -> str:
    commitments = upload.body.get("commitments")
    value = commitments.get(peer) if isinstance(commitments, dict) else None
    if not isinstance(value, str):
        raise BadEnvelope("An upload carries no commitment for a peer.", action="Check the hospital's version.")
    return value
