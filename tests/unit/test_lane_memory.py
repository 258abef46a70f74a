"""The coordinator's memory in a round over the lane does not grow with the number of hospitals."""

import tracemalloc

import numpy as np

from common import wire
from common.announcement import Announcement
from common.crypto import masking
from common.crypto.adding import Adder
from common.lane import PIECE_BYTES
from common.mechanism import Exact
from common.wire import Envelope, Sealed
from server.intake import Intake
from tests import lanes
from tests.lanes import JUNK, Carrying, until, wave

DIMENSION = 1_000_000


def peak_of_a_round(folder, hospitals):
    """The most that Python held at once while a real round of DIMENSION uint32 was taken in over the lane, in bytes."""
    names = tuple(f"hosp-{number:02d}" for number in range(hospitals))
    folder.mkdir()
    signed, homes = lanes.certified(folder, names)
    round_ = Announcement(
        run=lanes.RUN,
        study="0" * 64,
        roster="1" * 64,
        round=1,
        hospitals=names,
        task="train",
        index=1,
        dimension=DIMENSION,
        blob_sha256="2" * 64,
        mechanism=Exact(statistic="x", ring_bits=32),
    )
    ctx = masking.context(b"t" * 32, announcement=round_.bytes()).hex()
    head = {"round": 1, "context": ctx, "commitments": dict.fromkeys(names, "0" * 64)}
    sent = {}
    for name in names:
        upload = Envelope(kind="upload", sender=name, recipient="hub", run="r", body=head, blob=JUNK[: 4 * DIMENSION])
        sent[name] = wire.seal(upload, key=lanes.identity(name))
    lane = lanes.listening(folder, signed)
    try:
        for name, home in homes.items():
            Carrying(lanes.where(folder, home, port=lane.port), ask=lambda _data, name=name: sent[name])
        until(lambda: lane.present() == set(names))
        wave(lane, dict.fromkeys(names, b"warm"), deadline_s=0.0)
        asked = Sealed(front=b"now", blob=b"")  # the relays are in this process, and would hold a model each
        tracemalloc.start()
        adder = Adder(announcement=round_, transcript=b"t" * 32)
        (folder / "kept").mkdir()
        taken = Intake(names, place=folder / "kept", kind="upload", run="r", roster=signed, begin=adder.begin)
        failed = lane.wave(dict.fromkeys(names, asked), deadline_s=30, receive=taken.receive)
        good, codes = taken.close(failed)
        total = adder.total(good)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        lane.close()
    assert codes == {}
    words = np.frombuffer(JUNK[: 4 * DIMENSION], "<u4")
    assert np.array_equal(total.ravel(), words * np.uint32(hospitals))
    return peak


def test_the_coordinators_memory_does_not_grow_with_the_number_of_hospitals(tmp_path):
    """What grows is what is on its way, a few pieces each, and half of that is the relays', who live in this process too."""
    four, sixteen = (peak_of_a_round(tmp_path / str(hospitals), hospitals) for hospitals in (4, 16))
    assert (sixteen - four) / 12 < 6 * PIECE_BYTES  # a hospital's vector is 61 pieces
    assert four < 4 * DIMENSION + 4 * 6 * PIECE_BYTES  # one vector, however many hospitals
    more = 4 * (10_000_000 - DIMENSION)  # the same at 1e7, without 640 MB of uploads
    assert sixteen + more <= 1.2 * (four + more)
