"""The coordinator's end of the lane: one open stream per hospital, and envelopes over it as a carrier.

A hospital is who its TLS certificate says, and the roster names the certificates. A link that breaks costs nothing by itself:
request and reply go on at the byte where they stood.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typing_extensions import override

from common import lane_pb2, lane_pb2_grpc
from common.errors import BadEnvelope, LateUpload, MotetError, PortInUse, SecondUpload
from common.lane import BEAT_S, ENVELOPE_BYTES_MOST, MESSAGE_BYTES_MOST, PIECE_BYTES, SILENCE_S, deflate, pays
from common.roster import Roster
from common.wire import Sealed
from server.exchange import said

BYE_S = 2.0

log = logging.getLogger("motet.lane")
Receive = Callable[[str, bytes], None]
Heard = Callable[[str, str], None]


@dataclass(slots=True)
class _Link:
    """One hospital: its connection now, and the request that is under way. `changed` guards all of it."""

    name: str
    changed: threading.Condition = field(default_factory=threading.Condition)
    connection: int = 0  # counts up; an older one ends when it notices
    up: bool = False
    heard: float = 0.0
    request: int = 0
    sealed: Sealed | None = None  # None: nothing is under way
    deflated: bool = False
    receive: Receive | None = None
    got: int = 0  # bytes of the reply
    taking: bool = False  # a piece is being handed on
    code: str | None = None  # how it ended; "" with a whole reply
    unused: int = 0  # the request of which something came too late or twice; said once
    context: grpc.ServicerContext | None = None


class Lane(lane_pb2_grpc.LaneServicer):
    """A gRPC server over mutual TLS, and a carrier for server.exchange. `heard(hospital, "up" | "lost")` tells of links."""

    def __init__(self, *, run: str, roster: Roster, listen: str, key: Path, certificate: Path, heard: Heard) -> None:
        """Listen; raises PortInUse. Only certificates that the roster names are let in, already by TLS."""
        self._run, self._heard, self._closing, self._life = run, heard, threading.Event(), secrets.token_bytes(8)
        self._links = {name: _Link(name) for name in roster.names}
        self._names = {_fingerprint(member.relay_certificate): member.name for member in roster.members}
        server = grpc.server(
            ThreadPoolExecutor(2 * len(self._links) + 4, thread_name_prefix="lane"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_BYTES_MOST)],
            maximum_concurrent_rpcs=2 * len(self._links) + 4,
        )
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates="".join(member.relay_certificate for member in roster.members).encode(),
            require_client_auth=True,
        )
        lane_pb2_grpc.add_LaneServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        try:
            server.add_secure_port(listen, credentials)
        except RuntimeError:
            raise PortInUse(f"The lane cannot listen on {listen}.", action="Free that port.") from None
        server.start()
        self._server = server
        self._watch = threading.Thread(target=self._watch_silence, name="lane-watch", daemon=True)
        self._watch.start()

    def present(self) -> frozenset[str]:
        """Return the hospitals whose link is up."""
        return frozenset(name for name, link in self._links.items() if link.up)

    def wave(self, envelopes: Mapping[str, Sealed], *, deadline_s: float, receive: Receive) -> dict[str, str]:
        """Carry one envelope to each hospital; see server.exchange.Carrier. A link that comes back in time goes on."""
        end = time.monotonic() + deadline_s
        asked = [self._links[name] for name in envelopes]
        sample = next(iter(envelopes.values())).blob[:PIECE_BYTES] if envelopes else b""
        deflated = pays(sample)
        for link in asked:
            with link.changed:
                link.request += 1
                link.sealed, link.deflated, link.receive = envelopes[link.name], deflated, receive
                link.got, link.code = 0, None
                link.changed.notify_all()
        failed: dict[str, str] = {}
        for link in asked:
            with link.changed:
                while link.code is None and (left := end - time.monotonic()) > 0:
                    link.changed.wait(left)
                if link.code:
                    failed[link.name] = link.code
                link.sealed = link.receive = None
                while link.taking:  # nothing is handed on once this returns
                    link.changed.wait()
        return failed

    def close(self) -> None:
        """Say goodbye to every relay, wait until they have left, and stop listening."""
        self._closing.set()
        for link in self._links.values():
            with link.changed:
                link.changed.notify_all()
        end = time.monotonic() + BYE_S
        while self.present() and time.monotonic() < end:
            time.sleep(0.01)
        self._server.stop(grace=0.5).wait()

    @override
    def Carry(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Serve one connection of one relay."""
        name = self._names.get(_peer(context))
        if name is None:
            log.warning("a relay with a certificate that is not on the roster was turned away")
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "E-ROSTER")
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("frame") != "hello" or first.hello.run != self._run:
            log.warning("%s: its relay is of another run", name)
            context.abort(grpc.StatusCode.NOT_FOUND, "E-RUN")
        link = self._links[name]
        with link.changed:
            before, link.context = link.context, context
            link.connection += 1
            mine = link.connection
            link.up, link.heard = True, time.monotonic()
            at = first.hello.bytes if (first.hello.life, first.hello.request) == (self._life, link.request) else 0
            welcome = lane_pb2.Welcome(request=link.request, bytes=link.got, life=self._life)
            link.changed.notify_all()
        if before is not None:
            before.cancel()  # type: ignore[no-untyped-call]
        self._heard(name, "up")
        threading.Thread(target=self._listen, args=(request_iterator, context, link, mine), daemon=True).start()
        try:
            yield lane_pb2.FromCoordinator(welcome=welcome)
            yield from self._speak(context, link, mine, at)
        finally:
            self._lost(link, mine)

    def _speak(self, context: grpc.ServicerContext, link: _Link, mine: int, at: int) -> Iterator[Any]:
        """Yield the pieces of whatever request is under way, from byte `at` of the one that is now; beats between them."""
        sending = link.request
        while context.is_active():
            with link.changed:
                if link.connection != mine:
                    return
                if self._closing.is_set():
                    break
                if link.request != sending:
                    sending, at = link.request, 0
                sealed, deflated = link.sealed, link.deflated
                if sealed is None or at >= len(sealed):
                    if not link.changed.wait(BEAT_S):
                        sealed = None
                    elif sealed is None or at >= len(sealed):
                        continue
            if sealed is None or at >= len(sealed):
                yield lane_pb2.FromCoordinator(beat=lane_pb2.Beat())
                continue
            data = sealed.piece(at, size=PIECE_BYTES)
            piece = lane_pb2.Piece(
                request=sending,
                offset=at,
                total=len(sealed),
                data=deflate(data) if deflated else data,
                deflated=deflated,
            )
            at += len(data)
            yield lane_pb2.FromCoordinator(request=piece)
        if self._closing.is_set():
            yield lane_pb2.FromCoordinator(bye=lane_pb2.Bye())

    def _listen(self, frames: Iterator[Any], context: grpc.ServicerContext, link: _Link, mine: int) -> None:
        try:
            for frame in frames:
                if link.connection != mine:
                    return
                link.heard = time.monotonic()
                kind = frame.WhichOneof("frame")
                if kind == "reply":
                    self._take(link, mine, frame.reply)
                elif kind == "failed":
                    self._end(link, frame.failed.request, said(frame.failed.code))
        except grpc.RpcError:
            pass  # the connection ended; the relay makes another
        except BadEnvelope as error:
            log.warning("%s: %s", link.name, error)
            context.cancel()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001  (what comes from a hospital is not trusted to be harmless)
            log.error("%s: %s", link.name, type(error).__name__)  # noqa: TRY400  (the text could come from outside)
            context.cancel()  # type: ignore[no-untyped-call]
        finally:
            self._lost(link, mine)

    def _take(self, link: _Link, mine: int, piece: lane_pb2.Piece) -> None:
        """Hand on the bytes of a reply that are new; raises BadEnvelope on a gap, which only another connection can mend."""
        with link.changed:
            receive = link.receive
            if link.connection != mine:
                return
            if piece.request != link.request or receive is None or link.code is not None:
                if link.unused != piece.request:
                    link.unused = piece.request
                    second = link.code == "" and receive is not None
                    log.warning("%s: not used: %s", link.name, SecondUpload.code if second else LateUpload.code)
                return
            if piece.offset > link.got or piece.total > ENVELOPE_BYTES_MOST or piece.offset + len(piece.data) > piece.total:
                raise BadEnvelope("pieces do not fit together", action="")
            if piece.offset < link.got:
                return  # it came by the connection before
            link.got += len(piece.data)
            link.taking = True
        code = "" if link.got == piece.total else None
        try:
            receive(link.name, piece.data)
        except MotetError as error:
            code = error.code
        finally:
            with link.changed:
                link.taking = False
                link.changed.notify_all()
        if code is not None:
            self._end(link, piece.request, code)

    @staticmethod
    def _end(link: _Link, request: int, code: str) -> None:
        with link.changed:
            if request == link.request and link.code is None:
                link.code = code
                link.changed.notify_all()

    def _lost(self, link: _Link, mine: int) -> None:
        with link.changed:
            if link.connection != mine or not link.up:
                return
            link.up = False
        if not self._closing.is_set():
            self._heard(link.name, "lost")

    def _watch_silence(self) -> None:
        """Cut a link that says nothing, not even that it has nothing to say."""
        while not self._closing.wait(BEAT_S / 2):
            for link in self._links.values():
                if link.up and time.monotonic() - link.heard > SILENCE_S:
                    self._lost(link, link.connection)
                    if link.context is not None:
                        link.context.cancel()  # type: ignore[no-untyped-call]


def _peer(context: grpc.ServicerContext) -> bytes:
    (pem,) = context.auth_context().get("x509_pem_cert", [b""])
    return _fingerprint(bytes(pem).decode()) if pem else b""


def _fingerprint(pem: str) -> bytes:
    """Return the DER bytes of a certificate; for a member without a usable one, what no certificate has."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError:
        return b"none " + pem.encode()
