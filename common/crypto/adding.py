"""Signed uploads to one sum. It opens only if every hospital of the round uploaded in the same context."""

from collections.abc import Mapping

from common.announcement import Announcement
from common.crypto import masking, ring
from common.errors import BadEnvelope, ContextMismatch, HospitalMissing
from common.wire import Envelope


def add(uploads: Mapping[str, Envelope], *, announcement: Announcement, transcript: bytes) -> ring.Words:
    """Return the sum of the hospitals' vectors in the ring; the masks cancel.

    Checks, in this order: (1) exactly the named hospitals uploaded, (2) each one's context is the round's, (3) both ends of
    every pair commit to the same seed; a mismatch names the pair before any sum exists, (4) every vector has the right length.
    Raises HospitalMissing, ContextMismatch or BadEnvelope. There is no function from one upload to anything.
    Source: reference secure-sum.md, section 0, step 4.
    """
    named = announcement.hospitals
    if set(uploads) != set(named):  # (1)
        raise HospitalMissing("Not every hospital of the round uploaded.", action="Announce the next round without it.")
    for name in named:  # (2)
        check_upload(uploads[name], name=name, announcement=announcement, transcript=transcript)
    for name in named:  # (3)
        for peer in named:
            if name < peer and _commitment(uploads[name], peer) != _commitment(uploads[peer], name):
                raise ContextMismatch(f"{name} and {peer} were told different things.", action="Void the round.")
    bits = announcement.mechanism.ring_bits
    vectors = [ring.from_bytes(uploads[name].blob, dimension=announcement.dimension, bits=bits) for name in named]  # (4)
    return ring.total(vectors, dimension=announcement.dimension, bits=bits)


def check_upload(upload: Envelope, *, name: str, announcement: Announcement, transcript: bytes) -> None:
    """Check one hospital's upload by itself: context, round, a commitment for every peer, length.

    Raises ContextMismatch or BadEnvelope that names the hospital.
    """
    ctx = masking.context(transcript, announcement=announcement.bytes()).hex()
    if upload.body.get("context") != ctx or upload.body.get("round") != announcement.round:
        raise ContextMismatch(f"{name} answered in another context.", action="Void the round.")
    for peer in announcement.hospitals:
        if peer != name:
            _commitment(upload, peer)
    if len(upload.blob) != ring.size_bytes(announcement.dimension, bits=announcement.mechanism.ring_bits):
        raise BadEnvelope(f"{name} sent a vector of another length.", action="Void the round.")


def _commitment(upload: Envelope, peer: str) -> str:
    commitments = upload.body.get("commitments")
    value = commitments.get(peer) if isinstance(commitments, dict) else None
    if not isinstance(value, str):
        raise BadEnvelope("An upload carries no commitment for a peer.", action="Check the hospital's version.")
    return value
