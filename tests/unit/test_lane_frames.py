"""The lane and frames that nobody honest sends: refused at both ends, by code, in little memory."""

import threading
import time
import tracemalloc
import zlib

import grpc
import pytest

import common.lane
import server.lane
from common import lane_pb2, lane_pb2_grpc
from common.errors import BadEnvelope, LinkLost, SecondUpload
from common.lane import MESSAGE_BYTES_MOST, PIECE_BYTES
from tests import lanes
from tests.lanes import JUNK, SHOUT, ending, piece, until, wave


def asked_by_hand(there, *frames, deadline_s=0.5, **options):
    """A wave to a relay that answers with these frames, whatever it is asked."""
    go = threading.Event()

    def said():
        go.wait(10)
        yield from frames

    call = there.hostile(said(), **options)
    ended = []

    def read():
        try:
            for frame in call:
                if frame.WhichOneof("frame") == "request":
                    go.set()
        except grpc.RpcError as error:
            ended.append(error.code())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    until(lambda: "hosp-a" in there.lane.present())
    waved = wave(there.lane, {"hosp-a": b"1"}, deadline_s=deadline_s)
    return waved, ended, reader


def test_a_second_reply_and_a_reply_to_nothing_are_not_used(there, caplog):
    there.relay("hosp-b", ask=lambda data: time.sleep(0.5) or data)  # keeps the wave open
    begun = threading.Event()

    def said():
        yield piece(7, b"to nothing")
        begun.wait(5)
        yield piece(1, b"one")
        for _ in range(100):
            yield piece(1, b"two")

    call = there.hostile(said())
    until(lambda: "not used: E-LATE" in caplog.text)
    threading.Timer(0.1, begun.set).start()
    waved = wave(there.lane, {"hosp-a": b"1", "hosp-b": b"2"}, deadline_s=5)
    assert (waved.failed, waved.came) == ({}, {"hosp-a": b"one", "hosp-b": b"2"})
    until(lambda: "hosp-a: not used: E-SECOND" in caplog.text)
    assert caplog.text.count("not used") == 2  # said once a request, however often it is done
    assert SecondUpload.code == "E-SECOND"
    assert call.is_active()


@pytest.mark.parametrize(
    "frames",
    [
        [piece(1, b"abc", offset=1, total=4)],
        [piece(1, b"abc", total=9), piece(1, b"def", offset=5, total=9)],
        [piece(1, b"abc", total=2)],
        [piece(1, b"abc", total=1 << 60)],
    ],
    ids=["gap at the start", "gap", "longer than it says", "larger than any envelope"],
)
def test_pieces_that_do_not_fit_cost_the_connection(there, caplog, frames):
    waved, ended, reader = asked_by_hand(there, *frames)
    assert waved.failed == {}
    reader.join(5)
    assert ended
    assert "hosp-a: pieces do not fit together" in caplog.text
    there.relay()
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"<2>"}


def test_fifty_megabytes_of_junk_in_one_frame_cost_the_connection(there, caplog, capfd):
    tracemalloc.start()
    try:
        waved, ended, reader = asked_by_hand(there, piece(1, bytes(50_000_000)))
        reader.join(5)
    finally:
        tracemalloc.stop()
    assert waved.came == {"hosp-a": b""}
    assert ended == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    until(lambda: "hosp-a: its link was lost" in caplog.text)
    assert MESSAGE_BYTES_MOST < 50_000_000


def test_a_frame_that_cannot_be_parsed_costs_the_connection(there, caplog):
    stub = there.stub()
    over = threading.Event()
    there.stack.callback(over.set)

    def said():
        yield lane_pb2.FromRelay(hello=lane_pb2.Hello(run=lanes.RUN)).SerializeToString()
        yield SHOUT.encode() + bytes(range(256))
        over.wait(10)

    raw = stub.raw(said())
    assert ending(raw) is grpc.StatusCode.INTERNAL
    until(lambda: ("hosp-a", "lost") in there.heard or "its link was lost" in caplog.text or not there.lane.present())
    there.relay()
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"<2>"}


@pytest.mark.parametrize(
    "data",
    [zlib.compress(bytes(100_000_000)), zlib.compress(bytes(PIECE_BYTES + 1)), b"", b"junk", zlib.compress(b"x")[:-1],
     zlib.compress(b"x") + b"more"],
    ids=["100 MB", "one byte too many", "nothing", "junk", "truncated", "more after the end"],
)  # fmt: skip
def test_a_deflated_piece_that_is_none_is_refused_in_little_memory(data):
    tracemalloc.start()
    try:
        with pytest.raises(BadEnvelope):
            common.lane.inflate(data)
        assert tracemalloc.get_traced_memory()[1] < 16 * PIECE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES])
def test_a_deflated_piece_is_inflated_to_what_it_was(size):
    assert common.lane.inflate(common.lane.deflate(JUNK[:size])) == JUNK[:size]


class Hub(lane_pb2_grpc.LaneServicer):
    """A coordinator that says what it likes; its certificate is good."""

    def __init__(self, folder, roster_, lives):
        self.lives, self.said = iter(lives), []
        self.server = grpc.server(server.lane.ThreadPoolExecutor(4))
        lane_pb2_grpc.add_LaneServicer_to_server(self, self.server)
        pair = (folder / "keys" / "server.key").read_bytes(), (folder / "certificates" / "server.crt").read_bytes()
        trusted = "".join(member.relay_certificate for member in roster_.members).encode()
        self.port = self.server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], trusted, True))
        self.server.start()

    def Carry(self, request_iterator, context):
        frames = next(self.lives, None)
        if frames is None:
            context.abort(grpc.StatusCode.NOT_FOUND, SHOUT)
        self.said.append(next(request_iterator).hello)
        yield from frames
        if frames and frames[-1].WhichOneof("frame") == "bye":
            return
        while context.is_active():
            time.sleep(0.02)


def told(request, data, *, offset=0, total=None, deflated=False):
    total = len(data) if total is None else total
    return lane_pb2.FromCoordinator(
        request=lane_pb2.Piece(request=request, offset=offset, total=total, data=data, deflated=deflated)
    )


WELCOME = lane_pb2.FromCoordinator(welcome=lane_pb2.Welcome(request=1, life=b"life"))


@pytest.mark.parametrize(
    "frames",
    [
        [told(1, b"abc", offset=1, total=4)],
        [told(1, b"abc", total=9), told(1, b"def", offset=5, total=9)],
        [told(1, b"abc", total=9), told(1, b"def", offset=3, total=8)],
        [told(1, b"abc", total=2)],
        [told(1, b"abc", total=1 << 60)],
        [told(1, zlib.compress(bytes(50_000_000)), total=50_000_000, deflated=True)],
        [WELCOME],
    ],
    ids=["gap at the start", "gap", "changed length", "longer than it says", "larger than any envelope", "zip bomb", "welcome"],
)
def test_a_coordinator_whose_pieces_do_not_fit_is_left_and_the_vault_is_not_asked(there, caplog, frames):
    hub, asked = Hub(there.folder, there.signed, [[WELCOME, *frames], [WELCOME]]), []
    one = there.relay(port=hub.port, ask=asked.append, wait=False)
    until(lambda: len(hub.said) == 2)  # it came back, with no byte of what did not fit
    assert asked == []
    assert caplog.text.count("the lane broke") == 1
    hub.server.stop(0).wait()
    assert one.is_alive()


def test_a_coordinator_that_no_longer_knows_the_run_ends_the_relay_and_its_text_is_not_shown(there):
    hub = Hub(there.folder, there.signed, [])
    one = there.relay(port=hub.port, wait=False)
    one.join(5)
    assert isinstance(one.ended, LinkLost)
    assert "no such run" in str(one.ended)
    assert SHOUT not in str(one.ended)
    hub.server.stop(0).wait()


def test_an_oversized_frame_of_the_coordinator_is_dropped_unread(there, caplog):
    hub = Hub(there.folder, there.signed, [[WELCOME, told(1, bytes(50_000_000))], [WELCOME]])
    there.relay(port=hub.port, wait=False)
    until(lambda: len(hub.said) == 2)
    assert "the lane broke: RESOURCE_EXHAUSTED" in caplog.text
    hub.server.stop(0).wait()
