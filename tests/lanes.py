"""A lane on loopback: its two ends over real TLS, and a link between them that can be cut at any byte, frozen and mended."""

import contextlib
import dataclasses
import hashlib
import os
import select
import socket
import threading
import time
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import client.lane
import server.lane
from client import lane as relay_end
from client import relay
from client.relay import RelayHome
from common import lane_pb2, lane_pb2_grpc, roster
from common.errors import MotetError
from common.lane import NAME
from common.roster import Member, Roster
from common.wire import Sealed
from server import certificates
from server.lane import Lane

RUN = "r1"
LEDGER_KEY = "ledger+00000000+AAAA"


def identity(name: str) -> Ed25519PrivateKey:
    """Return a hospital's identity key."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def certified(folder: Path, names: tuple[str, ...]) -> tuple[Roster, dict[str, RelayHome]]:
    """Make a coordinator's certificates in `folder`, a relay's folder per hospital, and the roster that names them."""
    for part in ("keys", "certificates"):
        (folder / part).mkdir(parents=True)
    certificates.create(folder / "certificates", keys=folder / "keys", federation="f", hosts=["127.0.0.1"])
    homes = {name: relay.create(folder / name, name=name, socket=folder / "none") for name in names}
    members = [
        Member(
            name=name,
            identity=identity(name).public_key().public_bytes_raw().hex(),
            ledger_key=f"{LEDGER_KEY}{name}",
            node_key=name,
            relay_certificate=home.certificate.read_text(),
        )
        for name, home in homes.items()
    ]
    signed = roster.sign(federation="f", coordinator="hub", key=Ed25519PrivateKey.generate(), members=tuple(members))
    return signed, homes


def where(folder: Path, home: RelayHome, *, port: int) -> relay_end.Where:
    """Return how a relay reaches the lane on a loopback port."""
    ca = folder / "certificates" / "ca.crt"
    return relay_end.Where(address=f"127.0.0.1:{port}", ca=ca, key=home.tls_key, certificate=home.certificate)


def listening(folder: Path, signed: Roster, *, heard=lambda _name, _state: None, port: int = 0, run: str = RUN) -> Lane:
    """Return a lane that listens."""
    return Lane(
        run=run,
        roster=signed,
        listen=f"127.0.0.1:{port}",
        key=folder / "keys" / "server.key",
        certificate=folder / "certificates" / "server.crt",
        heard=heard,
    )


class Carrying(threading.Thread):
    """A relay's end of the lane in a thread of its own; `ended` is how it ended: None, or the error that it raised."""

    def __init__(self, at: relay_end.Where, *, ask, patience_s: float = 20.0, run: str = RUN, there=lambda: True) -> None:
        super().__init__(daemon=True)
        self.there = there
        self.at, self.ask, self.patience_s, self.run_id, self.ended = at, ask, patience_s, run, None
        self.start()

    def run(self) -> None:
        try:
            relay_end.carry(self.at, run=self.run_id, patience_s=self.patience_s, ask=self.ask, there=self.there)
        except MotetError as error:
            self.ended = error


class Link:
    """A socket forwarder on loopback. `cut_after` counts the bytes, both ways together, after which a connection is cut."""

    def __init__(self, port: int) -> None:
        self.target, self.frozen, self.refusing = port, threading.Event(), threading.Event()
        self.cut_after: list[int] = []  # one connection after another; then none
        self.passed = {"up": 0, "down": 0}
        self.connections = 0
        self.slow_s = 0.0  # before each piece that goes up
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._over.is_set():
            ready, _, _ = select.select([self._listening], [], [], 0.05)
            if not ready:
                continue
            near, _ = self._listening.accept()
            if self.refusing.is_set():
                near.close()
                continue
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self.target))
            self._pairs.append((near, far))
            left = self.cut_after.pop(0) if self.cut_after else None
            one = threading.Thread(target=self._forward, args=(near, far, left), daemon=True)
            self._threads.append(one)
            one.start()

    def _forward(self, near: socket.socket, far: socket.socket, left: int | None) -> None:
        with near, far, contextlib.suppress(OSError, ValueError):
            while not self._over.is_set():
                if self.frozen.is_set():
                    time.sleep(0.01)
                    continue
                ready, _, _ = select.select([near, far], [], [], 0.05)
                for source in ready:
                    way, sink = ("up", far) if source is near else ("down", near)
                    data = source.recv(min(1 << 14, left) if left is not None else 1 << 14)
                    if not data:
                        return
                    if way == "up" and self.slow_s:
                        time.sleep(self.slow_s)
                    sink.sendall(data)
                    self.passed[way] += len(data)
                    if left is not None:
                        left -= len(data)
                        if left == 0:
                            return

    def cut(self) -> None:
        """Cut every connection that there is now."""
        for pair in self._pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut everything and stop."""
        self._over.set()
        self.cut()
        for one in self._threads:
            one.join(5)
        self._listening.close()


@dataclasses.dataclass
class Waved:
    """What came of a wave."""

    failed: dict[str, str]
    came: dict[str, bytes]


def wave(lane, requests: dict[str, bytes | Sealed], *, deadline_s: float = 10.0) -> Waved:
    """Carry requests over a lane, and return the bytes that were handed on."""
    came = {name: bytearray() for name in requests}
    sealed = {name: one if isinstance(one, Sealed) else Sealed(front=one, blob=b"") for name, one in requests.items()}
    failed = lane.wave(sealed, deadline_s=deadline_s, receive=lambda name, data: came[name].extend(data))
    return Waved(failed=failed, came={name: bytes(data) for name, data in came.items()})


def until(true, *, within_s: float = 10.0) -> None:
    """Wait until `true()`; fails after a while."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


NAMES = ("hosp-a", "hosp-b")
JUNK = os.urandom(5_000_000)
SHOUT = "TEXT FROM OUTSIDE"


def echo(data):
    return b"<" + data + b">"


def hurry(monkeypatch):
    """Let the lane notice ten times as fast."""
    for module in (client.lane, server.lane):
        monkeypatch.setattr(module, "BEAT_S", 0.1)
        monkeypatch.setattr(module, "SILENCE_S", 0.8)
    monkeypatch.setattr(client.lane, "AGAIN_S", 0.02)
    monkeypatch.setattr(client.lane, "AGAIN_S_MOST", 0.1)
    monkeypatch.setattr(server.lane, "TELL_S", 0.0)


class There:
    def __init__(self, folder, signed, homes, stack):
        self.folder, self.signed, self.homes, self.stack, self.heard = folder, signed, homes, stack, []
        self.lane = self.open()

    def open(self, **options):
        one = listening(self.folder, self.signed, heard=lambda *told: self.heard.append(told), **options)
        self.stack.callback(one.close)
        return one

    def link(self):
        one = Link(self.lane.port)
        self.stack.callback(one.close)
        return one

    def where(self, name="hosp-a", port=None):
        return where(self.folder, self.homes[name], port=port or self.lane.port)

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
            yield lane_pb2.FromRelay(hello=lane_pb2.Hello(run=RUN))
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


def piece(request, data, *, offset=0, total=None, **more):
    total = len(data) if total is None else total
    return lane_pb2.FromRelay(reply=lane_pb2.Piece(request=request, offset=offset, total=total, data=data, **more))
