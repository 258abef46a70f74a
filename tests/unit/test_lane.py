"""The lane: envelopes arrive bit for bit over real TLS, whatever the link does; who does not belong is turned away."""

import contextlib
import hashlib
import logging
import os
import socket
import threading
import time
import tracemalloc
import zlib

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import client.lane
import common.lane
import server.lane
from client import relay
from common import lane_pb2, lane_pb2_grpc, roster, wire
from common.announcement import Announcement
from common.crypto import masking
from common.crypto.adding import Adder
from common.errors import BadEnvelope, ConfigError, LinkLost, PortInUse, SecondUpload
from common.lane import MESSAGE_BYTES_MOST, NAME, PIECE_BYTES
from common.mechanism import Exact
from common.wire import Envelope, Sealed
from server.intake import Intake
from tests import lanes
from tests.lanes import Carrying, Link, until, wave

NAMES = ("hosp-a", "hosp-b")
JUNK = os.urandom(5_000_000)
SHOUT = "TEXT FROM OUTSIDE"


def echo(data):
    return b"<" + data + b">"


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lane")
    return folder, *lanes.certified(folder, NAMES)


@pytest.fixture
def quick(monkeypatch):
    """The lane notices ten times as fast."""
    for module in (client.lane, server.lane):
        monkeypatch.setattr(module, "BEAT_S", 0.1)
        monkeypatch.setattr(module, "SILENCE_S", 0.8)
    monkeypatch.setattr(client.lane, "AGAIN_S", 0.02)
    monkeypatch.setattr(client.lane, "AGAIN_S_MOST", 0.1)
    monkeypatch.setattr(server.lane, "TELL_S", 0.0)


@pytest.fixture
def there(federation, quick, caplog):
    """A lane, relays through links, all of it ended at the end, and no text from outside in any log."""
    folder, signed, homes = federation
    caplog.set_level(logging.INFO)
    with contextlib.ExitStack() as stack:
        yield There(folder, signed, homes, stack)
    assert SHOUT not in caplog.text


class There:
    def __init__(self, folder, signed, homes, stack):
        self.folder, self.signed, self.homes, self.stack, self.heard = folder, signed, homes, stack, []
        self.lane = self.open()

    def open(self, **options):
        one = lanes.listening(self.folder, self.signed, heard=lambda *told: self.heard.append(told), **options)
        self.stack.callback(one.close)
        return one

    def link(self):
        one = Link(self.lane.port)
        self.stack.callback(one.close)
        return one

    def where(self, name="hosp-a", port=None):
        return lanes.where(self.folder, self.homes[name], port=port or self.lane.port)

    def relay(self, name="hosp-a", *, ask=echo, port=None, wait=True, **options):
        one = Carrying(self.where(name, port), ask=ask, **options)
        if wait:
            until(lambda: name in self.lane.present())
        return one

    def stub(self, name="hosp-a", *, key=None, certificate=None, ca=None):
        """A channel as a relay opens it, to say over it what no relay says."""
        at = self.where(name)
        credentials = grpc.ssl_channel_credentials(
            (ca or at.ca).read_bytes(),
            (key or at.key).read_bytes() if certificate is not False else None,
            (certificate or at.certificate).read_bytes() if certificate is not False else None,
        )
        options = [("grpc.ssl_target_name_override", NAME), ("grpc.max_send_message_length", -1)]
        channel = self.stack.enter_context(grpc.secure_channel(at.address, credentials, options))
        stub = lane_pb2_grpc.LaneStub(channel)
        stub.raw = channel.stream_stream("/motet.lane.v1.Lane/Carry")  # bytes as they are
        return stub

    def hostile(self, frames, **options):
        """Say these frames after a hello, and return how the coordinator ended it; it stays open until then."""
        over = threading.Event()

        def said():
            yield lane_pb2.FromRelay(hello=lane_pb2.Hello(run=lanes.RUN))
            yield from frames
            while not over.wait(0.1):
                yield lane_pb2.FromRelay(beat=lane_pb2.Beat())

        call = self.stub(**options).Carry(said())
        self.stack.callback(call.cancel)
        self.stack.callback(over.set)
        return call


def ending(call):
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    return caught.value.code()


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5_000_000])
def test_envelopes_arrive_bit_for_bit_both_ways(there, size):
    asked = []

    def ask(data):
        asked.append(data)
        return data[::-1]

    there.relay(ask=ask)
    sent = JUNK[:size]
    for front in {0, min(7, size), size}:
        waved = wave(there.lane, {"hosp-a": Sealed(front=sent[:front], blob=sent[front:])})
        assert waved.failed == {}
        assert asked.pop() == sent
        assert waved.came == {"hosp-a": sent[::-1]}
    assert asked == []


def test_what_can_be_deflated_arrives_bit_for_bit_and_in_fewer_bytes(there):
    link = there.link()
    there.relay(port=link.port, ask=lambda data: hashlib.sha256(data).digest())
    blob = b"the same again and again " * 40_000
    waved = wave(there.lane, {"hosp-a": Sealed(front=b"front", blob=blob)})
    assert waved.came == {"hosp-a": hashlib.sha256(b"front" + blob).digest()}
    assert link.passed["down"] < len(blob) / 10


def test_the_wire_carries_little_more_than_the_envelopes(there):
    link = there.link()
    there.relay(port=link.port, ask=lambda data: data)
    wave(there.lane, {"hosp-a": JUNK})
    for way in ("up", "down"):
        assert link.passed[way] < 1.02 * len(JUNK) + 4096


def test_every_hospital_gets_its_own(there):
    for name in NAMES:
        there.relay(name, ask=lambda data, name=name: name.encode() + data)
    waved = wave(there.lane, {"hosp-a": b"1", "hosp-b": b"2"})
    assert (waved.failed, waved.came) == ({}, {"hosp-a": b"hosp-a1", "hosp-b": b"hosp-b2"})
    assert wave(there.lane, {}).failed == {}


def test_a_code_of_the_relay_is_handed_on_and_its_text_is_not(there, caplog):
    answers = iter(["E-VAULT", SHOUT, ""])
    there.relay(ask=lambda _data: next(answers))
    assert wave(there.lane, {"hosp-a": b"1"}).failed == {"hosp-a": "E-VAULT"}
    assert wave(there.lane, {"hosp-a": b"2"}).failed == {"hosp-a": "E-UNKNOWN"}
    assert wave(there.lane, {"hosp-a": b"3"}).failed == {"hosp-a": "E-UNKNOWN"}


def test_a_vault_that_cannot_be_asked_costs_one_request(there, caplog):
    def ask(data):
        if data == b"1":
            raise ValueError(SHOUT)
        return echo(data)

    there.relay(ask=ask)
    assert wave(there.lane, {"hosp-a": b"1"}).failed == {"hosp-a": "E-RELAY"}
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"<2>"}
    assert "the vault could not be asked: ValueError" in caplog.text


@pytest.mark.parametrize("error", [BadEnvelope("x", action="y"), OSError(SHOUT)])
def test_a_reply_that_cannot_be_taken_is_failed_by_code(there, error):
    there.relay(ask=lambda _data: JUNK)

    def receive(_name, _data):
        raise error

    failed = there.lane.wave({"hosp-a": Sealed(front=b"1", blob=b"")}, deadline_s=5, receive=receive)
    assert failed == {"hosp-a": getattr(error, "code", "E-INTERNAL")}
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": JUNK}


CUTS = [1, 100, 700, 1500, 2200, 2500, 3000, 20_000, 150_000, 400_000, 700_000, 1_000_000, 1_000_001]


@pytest.mark.parametrize("seed", range(3))
def test_a_link_cut_at_any_byte_goes_on_at_that_byte_and_asks_the_vault_once(there, seed):
    random = np.random.default_rng(seed)
    link, asked = there.link(), []
    link.cut_after = [*CUTS[seed::3], *(int(cut) for cut in random.integers(1, 900_000, 5))]
    there.relay(port=link.port, wait=False, ask=lambda data: asked.append(data) or data[::-1])
    sent = JUNK[: 400_000 + seed]
    waved = wave(there.lane, {"hosp-a": sent}, deadline_s=30)
    assert (waved.failed, waved.came) == ({}, {"hosp-a": sent[::-1]})
    assert asked == [sent]
    assert link.connections >= 4
    assert wave(there.lane, {"hosp-a": b"more"}).came == {"hosp-a": b"erom"}


def test_what_was_carried_before_a_cut_is_not_carried_again(there):
    link = there.link()
    link.cut_after = [600_000]
    there.relay(port=link.port, wait=False, ask=lambda data: data)
    waved = wave(there.lane, {"hosp-a": JUNK[:500_000]}, deadline_s=30)
    assert waved.came == {"hosp-a": JUNK[:500_000]}
    assert link.connections == 2
    assert sum(link.passed.values()) < 1_000_000 + 100_000 + 8 * PIECE_BYTES  # not a second half, but what was on the way


def test_a_frozen_link_is_noticed_by_both_ends_and_made_again(there, caplog):
    link = there.link()
    there.relay(port=link.port)
    until(lambda: there.heard == [("hosp-a", "up")])
    link.frozen.set()
    began = time.monotonic()
    until(lambda: there.heard[1:] == [("hosp-a", "lost")])
    assert time.monotonic() - began < 2 * server.lane.SILENCE_S
    assert there.lane.present() == frozenset()
    until(lambda: "the lane broke" in caplog.text)  # the relay noticed too
    link.frozen.clear()
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}
    until(lambda: there.heard == [("hosp-a", "up"), ("hosp-a", "lost"), ("hosp-a", "up")])
    assert "hosp-a: its link was lost" in caplog.text


def test_the_shipped_times_notice_within_ten_seconds():
    assert common.lane.SILENCE_S + common.lane.BEAT_S <= 10
    assert 4 * common.lane.BEAT_S <= common.lane.SILENCE_S


@pytest.mark.parametrize("way", ["slow reply", "slow vault"])
def test_who_is_slow_is_not_cut(there, way):
    link = there.link()
    link.slow_s = 0.06 if way == "slow reply" else 0.0

    def ask(data):
        time.sleep(1.2 if way == "slow vault" else 0.0)
        return data

    there.relay(port=link.port, ask=ask)
    sent = JUNK[:400_000]  # 25 pieces of the link, 1.5 s: longer than the silence that is borne
    assert wave(there.lane, {"hosp-a": sent}).came == {"hosp-a": sent}
    assert link.connections == 1


def test_a_relay_that_restarts_is_sent_the_request_again(there):
    asked, first_over = [], threading.Event()

    def never(data):
        asked.append(data)
        first_over.wait(10)
        return "E-RELAY"

    link = there.link()
    there.relay(ask=never, port=link.port)
    waves = []
    one = threading.Thread(target=lambda: waves.append(wave(there.lane, {"hosp-a": b"1"})))
    one.start()
    until(lambda: asked == [b"1"])
    there.relay()  # the old one is ousted, as one that Flower forgot is
    one.join(10)
    first_over.set()
    assert waves[0].came == {"hosp-a": b"<1>"}


def test_another_life_of_the_coordinator_asks_again(there):
    asked = []
    link = there.link()
    there.relay(port=link.port, ask=lambda data: asked.append(data) or echo(data))
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}
    before = there.lane
    link.refusing.set()
    link.cut()
    there.lane = there.open()
    link.target = there.lane.port
    link.refusing.clear()
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}  # the same number, and bytes, in its own count
    assert asked == [b"1", b"1"]
    assert before.present() == frozenset()


def test_of_two_relays_with_one_certificate_the_newer_wins(there):
    first = there.relay(ask=lambda _data: b"first")
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"first"}
    second = there.relay(ask=lambda _data: b"second", wait=False)
    first.join(5)
    assert isinstance(first.ended, LinkLost)
    assert "took over" in str(first.ended)
    for _ in range(3):
        assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"second"}
    assert second.is_alive()


def test_a_relay_that_is_told_goodbye_ends(there):
    relays = [there.relay(name) for name in NAMES]
    there.lane.close()
    for one in relays:
        one.join(3)
        assert not one.is_alive()
        assert one.ended is None


def test_a_relay_without_a_coordinator_ends_after_its_patience(there):
    link = there.link()
    one = there.relay(port=link.port, patience_s=0.5)
    link.refusing.set()
    link.cut()
    began = time.monotonic()
    one.join(5)
    assert isinstance(one.ended, LinkLost)
    assert "patience" in str(one.ended)
    assert 0.2 < time.monotonic() - began < 2.5


def test_a_wave_ends_at_its_deadline_and_hands_on_nothing_afterwards(there, caplog):
    answer, came = threading.Event(), []
    there.relay(ask=lambda data: answer.wait(10) and echo(data))
    began = time.monotonic()
    sealed = {"hosp-a": Sealed(front=b"1", blob=b""), "hosp-b": Sealed(front=b"1", blob=b"")}
    assert there.lane.wave(sealed, deadline_s=0.3, receive=lambda *told: came.append(told)) == {}
    assert 0.3 <= time.monotonic() - began < 1.0
    answer.set()
    until(lambda: "hosp-a: not used: E-LATE" in caplog.text)
    assert came == []
    assert wave(there.lane, {"hosp-a": b"2"}).came == {"hosp-a": b"<2>"}


def test_a_wave_waits_for_what_is_being_handed_on(there):
    there.relay(ask=lambda _data: JUNK[:100])
    begun, ended = threading.Event(), []

    def receive(_name, _data):
        begun.set()
        time.sleep(0.4)
        ended.append(time.monotonic())

    there.lane.wave({"hosp-a": Sealed(front=b"1", blob=b"")}, deadline_s=0.2, receive=receive)
    assert begun.is_set()
    assert ended
    assert time.monotonic() >= ended[0]


def piece(request, data, *, offset=0, total=None, **more):
    total = len(data) if total is None else total
    return lane_pb2.FromRelay(reply=lane_pb2.Piece(request=request, offset=offset, total=total, data=data, **more))


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


def test_a_relay_of_another_run_is_turned_away(there, caplog):
    one = there.relay(run=SHOUT, wait=False)
    one.join(5)
    assert isinstance(one.ended, LinkLost)
    assert "no such run" in str(one.ended)
    assert "hosp-a: its relay is of another run" in caplog.text
    assert there.lane.present() == frozenset()


def test_who_does_not_say_hello_first_is_turned_away(there, caplog):
    call = there.stub().Carry(iter([piece(1, b"x")]))
    assert ending(call) is grpc.StatusCode.NOT_FOUND
    assert "another run" in caplog.text


def test_who_says_nothing_at_all_holds_nobody_up_and_is_cut(there):
    over = threading.Event()
    there.stack.callback(over.set)

    def nothing():
        over.wait(10)
        yield from ()

    calls = [there.stub("hosp-b").Carry(nothing()) for _ in range(12)]  # more than the lane has threads
    one = there.relay("hosp-a")
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}
    for call in calls:
        ending(call)
    assert one.is_alive()


def test_a_relay_that_connects_again_and_again_fills_no_journal(there, monkeypatch):
    monkeypatch.setattr(server.lane, "TELL_S", 0.5)
    began = time.monotonic()
    for _ in range(30):
        call = there.hostile([])
        next(call)
        call.cancel()
    until(lambda: ("hosp-a", "lost") in there.heard)
    assert len(there.heard) <= 3 * (1 + (time.monotonic() - began) / server.lane.TELL_S)  # up, lost, up at most


def stranger(folder, *, name="hosp-a", issuer=None, ca=False):
    """Write a key and a certificate that no roster names."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = relay._certificate(key, name=name)
    if issuer is not None:
        theirs = x509.load_pem_x509_certificate(issuer.certificate.read_bytes())
        signing = serialization.load_pem_private_key(issuer.tls_key.read_bytes(), None)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(theirs.subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(theirs.not_valid_before_utc)
            .not_valid_after(theirs.not_valid_after_utc)
            .sign(signing, hashes.SHA256())
        )
    folder.mkdir()
    (folder / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key").write_bytes(pem)
    return {"key": folder / "key", "certificate": folder / "crt"}


HELLO = lane_pb2.FromRelay(hello=lane_pb2.Hello(run=lanes.RUN))


@pytest.mark.parametrize("kind", ["stranger", "same name", "issued by a hospital", "none"])
def test_a_certificate_that_the_roster_does_not_name_is_not_let_in(there, tmp_path, kind):
    if kind == "none":
        pair = {"certificate": False}
    else:
        issuer = there.homes["hosp-b"] if kind == "issued by a hospital" else None
        pair = stranger(tmp_path / "s", name="hosp-a" if kind != "stranger" else "mallory", issuer=issuer)
    code = ending(there.stub(**pair).Carry(iter([HELLO])))
    assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED}
    assert there.lane.present() == frozenset()
    there.relay()  # the honest one is not disturbed by it
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}


def test_a_hospital_that_left_the_roster_is_not_let_in_and_its_relay_says_so(there, caplog, tmp_path):
    gone = relay.create(tmp_path / "gone", name="hosp-x", socket=tmp_path / "none")
    at = lanes.where(there.folder, gone, port=there.lane.port)
    one = Carrying(at, ask=echo, patience_s=0.3)
    one.join(5)
    assert isinstance(one.ended, LinkLost)
    assert "the lane broke: UNAVAILABLE" in caplog.text
    assert there.lane.present() == frozenset()


def test_a_coordinator_of_another_authority_is_not_spoken_to(there, tmp_path, caplog):
    lanes.certified(tmp_path / "other", NAMES)
    at = there.where()
    wrong = client.lane.Where(
        address=at.address, ca=tmp_path / "other" / "certificates" / "ca.crt", key=at.key, certificate=at.certificate
    )
    one = Carrying(wrong, ask=echo, patience_s=0.3)
    one.join(5)
    assert isinstance(one.ended, LinkLost)
    assert "the lane broke: UNAVAILABLE" in caplog.text
    assert there.lane.present() == frozenset()


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(1000), b"", JUNK[:100_000]]
)
def test_a_plain_text_client_gets_nothing(there, junk):
    with socket.create_connection(("127.0.0.1", there.lane.port), timeout=5) as one:
        with contextlib.suppress(OSError):
            one.sendall(junk)
            one.shutdown(socket.SHUT_WR)
        got = b""
        with contextlib.suppress(ConnectionError):
            while data := one.recv(4096):
                got += data
    assert b"HTTP/1.1 200" not in got
    assert len(got) < 100  # a TLS alert at most
    there.relay()
    assert wave(there.lane, {"hosp-a": b"1"}).came == {"hosp-a": b"<1>"}


def test_a_plain_grpc_client_gets_nothing(there):
    with grpc.insecure_channel(f"127.0.0.1:{there.lane.port}") as channel:
        assert ending(lane_pb2_grpc.LaneStub(channel).Carry(iter([HELLO]))) is grpc.StatusCode.UNAVAILABLE


def test_a_roster_whose_certificates_could_be_confused_is_refused(federation, tmp_path):
    folder, signed, _ = federation
    one, two = signed.members
    twice = [
        one.relay_certificate + "\n",  # the same, written otherwise
        relay.create(tmp_path / "twin", name="hosp-a", socket=tmp_path).certificate.read_text(),  # TLS finds it by that name
    ]
    for certificate in twice:
        members = (one, server.lane.Member(**{**{f: getattr(two, f) for f in two.__slots__}, "relay_certificate": certificate}))
        other = roster.sign(federation="f", coordinator="hub", key=lanes.Ed25519PrivateKey.generate(), members=members)
        with pytest.raises(ConfigError, match="Two hospitals"):
            lanes.listening(folder, other)


def test_a_port_that_is_taken_is_named(there):
    with pytest.raises(PortInUse):
        there.open(port=there.lane.port)


def test_an_unreadable_certificate_keeps_its_hospital_out_and_no_other(federation, quick, caplog):
    folder, signed, homes = federation
    one, two = signed.members
    members = (one, server.lane.Member(**{**{f: getattr(two, f) for f in two.__slots__}, "relay_certificate": "junk"}))
    other = roster.sign(federation="f", coordinator="hub", key=lanes.Ed25519PrivateKey.generate(), members=members)
    lane = lanes.listening(folder, other)
    try:
        Carrying(lanes.where(folder, homes["hosp-a"], port=lane.port), ask=echo)
        until(lambda: lane.present() == {"hosp-a"})
        assert wave(lane, {"hosp-a": b"1", "hosp-b": b"1"}, deadline_s=0.3).came == {"hosp-a": b"<1>", "hosp-b": b""}
    finally:
        lane.close()
    assert "hosp-b: its relay certificate cannot be read" in caplog.text


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
