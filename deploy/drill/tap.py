"""A dishonest carrier between a relay and its vault: it keeps what it carries, and repeats, doubles or mixes it up later."""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from typing_extensions import override

from client import vault_pb2, vault_pb2_grpc
from common import wire
from common.errors import BadEnvelope

KEPT = 1024
CHUNK_BYTES = 1 << 20
DEADLINE_S = 60.0
CLOSE = "close"  # is answered with the ledger's newest checkpoint: a later one when it is asked again


class Tap(vault_pb2_grpc.VaultServicer):
    """Stands at a vault's socket and passes everything on; while `doubling`, every request twice, the one before in between."""

    def __init__(self, socket: Path) -> None:
        """Move the vault's socket aside and answer in its place until `close`."""
        self.doubling = threading.Event()
        self.kept: deque[tuple[bytes, str]] = deque(maxlen=KEPT)  # requests, and the SHA-256 of what they got
        self.differed = 0  # repetitions that were neither answered with the same bytes nor refused
        self._socket, self._aside = socket, socket.with_name(f"{socket.name}-aside")
        socket.rename(self._aside)
        self._channel = grpc.insecure_channel(f"unix:{self._aside}")
        self._answer = vault_pb2_grpc.VaultStub(self._channel).Answer  # type: ignore[no-untyped-call]
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        vault_pb2_grpc.add_VaultServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()

    @override
    def Answer(self, request: Iterator[vault_pb2.Chunk], context: grpc.ServicerContext) -> Iterator[vault_pb2.Chunk]:
        data = b"".join(chunk.data for chunk in request)
        before, doubled = self.kept[-1] if self.kept else None, self.doubling.is_set()
        reply, code = self.send(data)
        self.kept.append((data, _digest(reply)))
        if doubled:
            self.differed += sum(self._differs(one) for one in (before, self.kept[-1]) if one is not None)
        if code:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, code)
        yield from chunks(reply)

    @override
    def State(self, request: vault_pb2.StateRequest, context: grpc.ServicerContext) -> vault_pb2.StateReply:
        reply: vault_pb2.StateReply = vault_pb2_grpc.VaultStub(self._channel).State(request)  # type: ignore[no-untyped-call]
        return reply

    def send(self, data: bytes) -> tuple[bytes, str]:
        """Hand bytes to the vault; return its reply and an empty code, or nothing and its code."""
        try:
            return b"".join(chunk.data for chunk in self._answer(chunks(data), timeout=DEADLINE_S)), ""
        except grpc.RpcError as error:
            return b"", str(error.details() or error.code().name)

    def repeat_all(self) -> int:
        """Hand every request that was kept to the vault again; return how many got other bytes than then."""
        return sum(self._differs(one) for one in tuple(self.kept))

    def _differs(self, one: tuple[bytes, str]) -> bool:
        reply, code = self.send(one[0])
        return not code and _digest(reply) != one[1] and _kind(one[0]) != CLOSE

    def close(self) -> None:
        """Give the vault its socket back; a vault that was started again in the meantime keeps its own."""
        self._server.stop(grace=1).wait()
        self._channel.close()
        if self._aside.exists():
            self._aside.rename(self._socket)


def _kind(data: bytes) -> str:
    try:
        return wire.peek(data).kind
    except BadEnvelope:
        return ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def chunks(data: bytes) -> Iterator[vault_pb2.Chunk]:
    """Return bytes as the chunks of the vault's socket."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield vault_pb2.Chunk(data=data[start : start + CHUNK_BYTES])
