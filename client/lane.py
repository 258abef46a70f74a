"""The relay's end of the lane: one stream to the coordinator, made again when it breaks, and the vault's answers over it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from common import lane_pb2, lane_pb2_grpc
from common.errors import BadEnvelope, LinkLost, MotetError
from common.lane import BEAT_S, ENVELOPE_BYTES_MOST, MESSAGE_BYTES_MOST, NAME, PIECE_BYTES, SILENCE_S, VAULT_AWAY, inflate

AGAIN_S = 0.2  # before the first new connection; doubled up to AGAIN_S_MOST
AGAIN_S_MOST = 2.0
NOTHING_LEFT = 1 << 62
FINAL = {  # no use in trying again
    grpc.StatusCode.NOT_FOUND: "The coordinator knows no such run any more.",
    grpc.StatusCode.PERMISSION_DENIED: "The coordinator's roster does not name this relay's certificate.",
    grpc.StatusCode.ALREADY_EXISTS: "Another relay with this hospital's certificate took over.",
}

log = logging.getLogger("motet.relay")
Ask = Callable[[bytes], bytes | str]  # an envelope in; an envelope out, or a code
There = Callable[[], bool]  # whether the vault answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """How to reach the lane: HOST:PORT, the authority that the coordinator's certificate must come from, our own pair."""

    address: str
    ca: Path
    key: Path
    certificate: Path


@dataclass(slots=True)
class _State:
    """What outlives a connection. `changed` guards all of it."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    request: int = 0
    data: bytearray = field(default_factory=bytearray)
    total: int = -1
    asked: int = 0  # the last request that the vault was given
    reply: bytes | str | None = None  # to `request`
    life: bytes = b""  # of the coordinator that counts the requests
    connection: int = 0
    heard: float = 0.0
    told: str = ""  # how the last connection ended; said when it changes
    over: bool = False


def carry(where: Where, *, run: str, patience_s: float, ask: Ask, there: There = lambda: True) -> None:
    """Carry envelopes between the coordinator and `ask` until the coordinator says goodbye.

    After VAULT_AWAY, beats tell the coordinator whether the vault is `there` again.

    A link that breaks is made again, and goes on at the byte where it stood. Raises LinkLost when nothing was heard of the
    coordinator for `patience_s`, when it knows no such run or hospital any more, or when another relay took over.
    """
    state = _State(heard=time.monotonic())
    credentials = grpc.ssl_channel_credentials(where.ca.read_bytes(), where.key.read_bytes(), where.certificate.read_bytes())
    options = [
        ("grpc.ssl_target_name_override", NAME),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MOST),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", int(AGAIN_S * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(AGAIN_S_MOST * 1000)),
    ]
    worker = threading.Thread(target=_work, args=(state, ask), name="vault", daemon=True)
    worker.start()
    pause = AGAIN_S
    try:
        while True:
            with grpc.secure_channel(where.address, credentials, options) as channel:
                before = state.heard
                if _connection(channel, state, run=run, there=there):
                    return
            if time.monotonic() - state.heard > patience_s:
                raise LinkLost("The coordinator was not heard of for the plan's patience.", action="Look at the coordinator.")
            pause = AGAIN_S if state.heard > before else min(2 * pause, AGAIN_S_MOST)
            time.sleep(pause)
    finally:
        with state.changed:
            state.over = True
            state.changed.notify_all()


def _connection(channel: grpc.Channel, state: _State, *, run: str, there: There) -> bool:
    """Serve one connection to its end; tell whether the coordinator said goodbye."""
    with state.changed:
        state.connection += 1
        mine = state.connection
    opened = threading.Event()
    sent_from: list[tuple[int, int]] = []  # (request, offset) at which the coordinator wants the reply; one at most
    stub = lane_pb2_grpc.LaneStub(channel)  # type: ignore[no-untyped-call]
    call = stub.Carry(_speak(state, mine, run=run, opened=opened, sent_from=sent_from, there=there))
    watch = threading.Thread(target=_watch, args=(state, mine, call, time.monotonic()), daemon=True)
    watch.start()
    try:
        for frame in call:
            state.heard = time.monotonic()
            kind = frame.WhichOneof("frame")
            if kind == "welcome":
                if sent_from:
                    raise BadEnvelope("A second welcome came.", action="Connect again.")
                state.told = ""
                with state.changed:
                    if state.life != frame.welcome.life:  # another life of the coordinator: it asks again
                        state.life, state.request, state.asked, state.reply = frame.welcome.life, 0, 0, None
                        state.data, state.total = bytearray(), -1
                sent_from.append((frame.welcome.request, frame.welcome.bytes))
                opened.set()
            elif kind == "request":
                _take(state, frame.request)
            elif kind == "bye":
                return True
        _say(state, "CLOSED")
    except BadEnvelope as error:
        _say(state, str(error))
        call.cancel()
    except grpc.RpcError as error:
        if error.code() in FINAL:
            raise LinkLost(FINAL[error.code()], action="Wait for its next study.") from None
        _say(state, error.code().name)  # never its text, which comes from outside
    finally:
        with state.changed:
            state.connection += 1
            state.changed.notify_all()
        opened.set()
    return False


def _say(state: _State, how: str) -> None:
    """Log how a connection ended, once in a row."""
    if state.told != how:
        state.told = how
        log.warning("the lane broke: %s; it is made again", how)


def _speak(
    state: _State, mine: int, *, run: str, opened: threading.Event, sent_from: list[tuple[int, int]], there: There
) -> Iterator[lane_pb2.FromRelay]:
    """Yield what the relay says: hello, then replies in pieces, and beats where there is nothing to say."""
    with state.changed:
        hello = lane_pb2.Hello(run=run, request=state.request, bytes=len(state.data), life=state.life)
    yield lane_pb2.FromRelay(hello=hello)
    opened.wait()
    with state.changed:
        sending = state.request
        asked, at = sent_from[0] if sent_from else (sending, NOTHING_LEFT)
        if asked != sending:  # a newer request came already, or the one that the coordinator waits for is yet to come
            at = 0 if sending > asked else NOTHING_LEFT
    while True:
        with state.changed:
            if state.connection != mine or state.over:
                return
            if state.request != sending:
                sending, at = state.request, 0
            reply = state.reply
            if reply is None or at >= max(len(reply), 1):
                state.changed.wait(BEAT_S)
                reply = state.reply if state.request == sending else None
        if reply is None or at >= max(len(reply), 1):
            yield lane_pb2.FromRelay(beat=lane_pb2.Beat(away=reply == VAULT_AWAY and not there()))
        elif isinstance(reply, str):
            at = len(reply)
            yield lane_pb2.FromRelay(failed=lane_pb2.Failed(request=sending, code=reply))
        else:
            data = reply[at : at + PIECE_BYTES]
            yield lane_pb2.FromRelay(reply=lane_pb2.Piece(request=sending, offset=at, total=len(reply), data=data))
            at += max(len(data), 1)  # an empty reply is one empty piece


def _take(state: _State, piece: lane_pb2.Piece) -> None:
    """Take bytes of a request that are new; raises BadEnvelope on a gap, which only another connection can mend."""
    data = inflate(piece.data) if piece.deflated else piece.data
    with state.changed:
        if piece.request < state.request:
            return
        if piece.request > state.request:
            state.request, state.data, state.total, state.reply = piece.request, bytearray(), piece.total, None
        if piece.offset < len(state.data):
            return  # it came by the connection before
        if piece.total > ENVELOPE_BYTES_MOST or piece.total != state.total or piece.offset != len(state.data):
            raise BadEnvelope("Pieces do not fit together.", action="Connect again.")
        if len(state.data) + len(data) > state.total:
            raise BadEnvelope("Pieces do not fit together.", action="Connect again.")
        state.data += data
        if len(state.data) == state.total:
            state.changed.notify_all()


def _work(state: _State, ask: Ask) -> None:
    """Give the vault each whole request, one after another; an answer to a request that is over is dropped."""
    while True:
        with state.changed:
            while not state.over and (state.asked == state.request or len(state.data) != state.total):
                state.changed.wait()
            if state.over:
                return
            state.asked = request = state.request
            life, data = state.life, bytes(state.data)
        try:
            reply = ask(data)
        except Exception as error:  # noqa: BLE001  (a worker that died would leave every later request without an answer)
            log.error("the vault could not be asked: %s", type(error).__name__)  # noqa: TRY400  (no text from outside)
            reply = error.code if isinstance(error, MotetError) else "E-RELAY"
        with state.changed:
            if (state.life, state.request) == (life, request):
                state.reply = reply
                state.changed.notify_all()


def _watch(state: _State, mine: int, call: grpc.Call, started: float) -> None:
    """Cut a connection over which nothing comes, not even a beat."""
    while True:
        with state.changed:
            if state.connection != mine:
                return
            state.changed.wait(BEAT_S / 2)
            silent = time.monotonic() - max(state.heard, started) > SILENCE_S
        if silent:
            call.cancel()  # type: ignore[no-untyped-call]
            return
