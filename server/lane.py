"""The coordinator's end of the lane: one open stream per hospital, and envelopes over it as a carrier.

A hospital is who its TLS certificate says, and the roster names the certificates. A link that breaks costs nothing by itself:
request and reply go on at the byte where they stood.
"""

import logging
import math
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
from common.errors import BadEnvelope, ConfigError, InternalError, LateUpload, MotetError, PortInUse, SecondUpload
from common.lane import BEAT_S, ENVELOPE_BYTES_MOST, MESSAGE_BYTES_MOST, PIECE_BYTES, SILENCE_S, VAULT_AWAY, deflate, pays
from common.roster import Member, Roster
from common.wire import Sealed
from server.exchange import said

BYE_S = 2.0
TELL_S = 1.0  # a link that breaks again and again fills no journal

log = logging.getLogger("motet.lane")
Receive = Callable[[str, bytes], None]
Heard = Callable[[str, str], None]


_Since = tuple[grpc.ServicerContext, float]


@dataclass(slots=True)
class _Link:
    """One hospital: its connection now, and the request that is under way. `changed` guards all of it."""

    name: str
    changed: threading.Condition = field(default_factory=threading.Condition)
    connection: int = 0  # counts up; an older one ends when it notices
    up: bool = False
    away: bool = False  # its vault does not answer
    heard: float = 0.0
    context: grpc.ServicerContext | None = None
    unnamed: _Since | None = None  # a connection that has not yet said hello
    ousted: _Since | None = None  # one that a newer connection took over from
    breaks: int = 0
    told: tuple[bool, int, float] = (False, 0, -math.inf)  # of `up` and `breaks`, when
    told_away: bool = False
    request: int = 0
    sealed: Sealed | None = None  # None: nothing is under way
    deflated: bool = False
    receive: Receive | None = None
    got: int = 0  # bytes of the reply
    taking: bool = False  # a piece is being handed on
    code: str | None = None  # how it ended; "" with a whole reply
    unused: int = -1  # the request during which something came too late or twice; said once


class Lane(lane_pb2_grpc.LaneServicer):
    """A gRPC server over mutual TLS, and a carrier for server.exchange. `heard(hospital, "up" | "lost")` tells of links."""

    def __init__(self, *, run: str, roster: Roster, listen: str, key: Path, certificate: Path, heard: Heard) -> None:
        """Listen; raises PortInUse, or ConfigError for a roster without a usable certificate per hospital.

        Only certificates that the roster names are let in, already by TLS.
        """
        self._run, self._heard, self._closing, self._life = run, heard, threading.Event(), secrets.token_bytes(8)
        self._links = {name: _Link(name) for name in roster.names}
        certificates = {member.name: one for member in roster.members if (one := _certificate(member)) is not None}
        self._names = {_der(one): name for name, one in certificates.items()}
        if not len(self._names) == len(certificates) == len({one.subject for one in certificates.values()}) > 0:
            raise ConfigError("Two hospitals have the same certificate or name in it.", action="Let one of them enrol again.")
        streams = 3 * len(self._links) + 4  # of each hospital: one that serves, one that was ousted, one that says hello
        server = grpc.server(
            ThreadPoolExecutor(streams, thread_name_prefix="lane"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MOST),
                ("grpc.max_concurrent_streams", 2),  # of one connection
            ],
            maximum_concurrent_rpcs=streams,
        )
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates=b"".join(one.public_bytes(Encoding.PEM) for one in certificates.values()),
            require_client_auth=True,
        )
        lane_pb2_grpc.add_LaneServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        try:
            self.port = server.add_secure_port(listen, credentials)
        except RuntimeError:
            raise PortInUse(f"The lane cannot listen on {listen}.", action="Free that port.") from None
        server.start()
        self._server = server
        self._watch = threading.Thread(target=self._watch_links, name="lane-watch", daemon=True)
        self._watch.start()

    def present(self) -> frozenset[str]:
        """Return the hospitals whose link is up and whose vault answers, as far as its relay said."""
        return frozenset(name for name, link in self._links.items() if link.up and not link.away)

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
        while any(link.up for link in self._links.values()) and time.monotonic() < end:
            time.sleep(0.01)
        self._server.stop(grace=0.5).wait()

    @override
    def Carry(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Serve one connection of one relay."""
        name = self._names.get(_peer(context))
        if name is None:
            log.warning("a relay with a certificate that is not on the roster was turned away")
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "E-ROSTER")
        link = self._links[name]
        first = _first(link, request_iterator, context)
        if first is None or first.WhichOneof("frame") != "hello" or first.hello.run != self._run:
            log.warning("%s: its relay is of another run", name)
            context.abort(grpc.StatusCode.NOT_FOUND, "E-RUN")
        with link.changed:
            now = time.monotonic()
            before, link.ousted = link.ousted, (link.context, now) if link.context is not None and link.up else link.ousted
            link.breaks += link.up
            link.connection += 1
            link.context, link.up, link.heard = context, True, now
            mine, request = link.connection, link.request
            at = first.hello.bytes if (first.hello.life, first.hello.request) == (self._life, request) else 0
            welcome = lane_pb2.Welcome(request=request, bytes=link.got, life=self._life)
            link.changed.notify_all()
        if before is not None and before is not link.ousted:
            before[0].cancel()  # type: ignore[no-untyped-call]
        threading.Thread(target=self._listen, args=(request_iterator, context, link, mine), daemon=True).start()
        try:
            yield lane_pb2.FromCoordinator(welcome=welcome)
            yield from self._speak(context, link, mine, request=request, at=at)
        finally:
            self._lost(link, mine)

    def _speak(self, context: grpc.ServicerContext, link: _Link, mine: int, *, request: int, at: int) -> Iterator[Any]:
        """Yield the pieces of whatever request is under way, from byte `at` of `request`; beats where there is silence."""
        said_at = time.monotonic()
        while context.is_active():
            with link.changed:
                if link.connection != mine:
                    context.abort(grpc.StatusCode.ALREADY_EXISTS, "E-SECOND")
                if self._closing.is_set():
                    break
                if link.request != request:
                    request, at = link.request, 0
                sealed, deflated = link.sealed, link.deflated
                if sealed is None or at >= max(len(sealed), 1):  # an empty envelope is one empty piece
                    sealed = None
                    if (left := said_at + BEAT_S - time.monotonic()) > 0:
                        link.changed.wait(left)  # also woken by every piece of a reply
                        continue
            said_at = time.monotonic()
            if sealed is None:
                yield lane_pb2.FromCoordinator(beat=lane_pb2.Beat())
                continue
            data = sealed.piece(at, size=PIECE_BYTES)
            piece = lane_pb2.Piece(
                request=request,
                offset=at,
                total=len(sealed),
                data=deflate(data) if deflated else data,
                deflated=deflated,
            )
            at += max(len(data), 1)
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
                    link.away = frame.failed.code == VAULT_AWAY
                    self._end(link, frame.failed.request, said(frame.failed.code))
                elif kind == "beat":
                    link.away = frame.beat.away
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
            while link.taking:  # by the connection before
                link.changed.wait()
            receive = link.receive
            if link.connection != mine:
                return
            if piece.request != link.request or receive is None or link.code is not None:
                if link.unused != link.request:
                    link.unused = link.request
                    second = piece.request == link.request and link.code == ""
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
        except Exception as error:  # noqa: BLE001  (what comes from a hospital is not trusted to be harmless)
            log.error("%s: its reply could not be taken: %s", link.name, type(error).__name__)  # noqa: TRY400
            code = InternalError.code
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
            if link.connection == mine and link.up:
                link.up, link.breaks = False, link.breaks + 1

    def _watch_links(self) -> None:
        """Cut a link that says nothing, not even that it has nothing to say; tell what became of each."""
        while not self._closing.wait(BEAT_S / 2):
            for link in self._links.values():
                try:
                    self._cut_silent(link)
                    self._tell(link)
                except Exception as error:  # noqa: BLE001  (a full disk, say: the links are watched all the same)
                    log.error("%s: its link could not be told of: %s", link.name, type(error).__name__)  # noqa: TRY400

    def _cut_silent(self, link: _Link) -> None:
        now = time.monotonic()
        silent: list[grpc.ServicerContext] = []
        with link.changed:
            if link.up and link.context is not None and now - link.heard > SILENCE_S:
                silent.append(link.context)
                self._lost(link, link.connection)
            if link.unnamed is not None and now - link.unnamed[1] > SILENCE_S:
                silent.append(link.unnamed[0])
            if link.ousted is not None and now - link.ousted[1] > BEAT_S:
                silent.append(link.ousted[0])
                link.ousted = None
        for context in silent:
            context.cancel()  # type: ignore[no-untyped-call]

    def _tell(self, link: _Link) -> None:
        now = time.monotonic()
        with link.changed:
            (was, breaks, at), up, away = link.told, link.up, link.up and link.away
            if now - at < TELL_S or (was, breaks, link.told_away) == (up, link.breaks, away):
                return
            broke = link.breaks > breaks
            back = up and (broke or not was or (link.told_away and not away))
            link.told, link.told_away = (up, link.breaks, now), away
        if broke:
            log.warning("%s: its link was lost", link.name)
            if not was:  # it came and went since this was looked at
                self._heard(link.name, "up")
            self._heard(link.name, "lost")
        if back:
            self._heard(link.name, "up")
        if away:
            self._heard(link.name, "away")


def _first(link: _Link, frames: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401  (no class of gRPC's own)
    """Return a connection's first frame, or None. One connection of a hospital may wait here, and not for long."""
    mine = context, time.monotonic()
    with link.changed:
        before, link.unnamed = link.unnamed, mine
    if before is not None:
        before[0].cancel()  # type: ignore[no-untyped-call]
    try:
        return next(frames, None)
    finally:
        with link.changed:
            if link.unnamed is mine:
                link.unnamed = None


def _peer(context: grpc.ServicerContext) -> bytes:
    (pem,) = context.auth_context()["x509_pem_cert"]  # TLS asks for one
    return _der(x509.load_pem_x509_certificate(bytes(pem)))


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _certificate(member: Member) -> x509.Certificate | None:
    """Return the first certificate in a member's entry, whatever follows it; None where there is none to be read."""
    try:
        return x509.load_pem_x509_certificate(member.relay_certificate.encode())
    except ValueError:
        log.warning("%s: its relay certificate cannot be read; let it enrol again", member.name)
        return None
