"""The vault as a process: one per folder, a Unix socket, no network."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import torch
from threadpoolctl import threadpool_limits
from typing_extensions import override

from client import metrics, vault_pb2, vault_pb2_grpc
from client.config import Home, read_site
from client.engine import device
from client.metrics import Metrics
from client.pipeline import Progress
from client.vault import Vault
from common import logs
from common.errors import BadEnvelope, MotetError
from common.locks import hold

CHUNK_BYTES = 1 << 20

log = logging.getLogger("motet.vault")


class _Service(vault_pb2_grpc.VaultServicer):
    """Hands envelopes to the vault, one at a time; an error leaves as its code, its text stays in this log."""

    def __init__(self, vault: Vault, metrics: Metrics) -> None:
        self._vault, self._metrics, self._one_at_a_time = vault, metrics, threading.Lock()

    @override
    def Answer(self, request_iterator: Iterator[vault_pb2.Chunk], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            data = _collect(request_iterator, most=self._vault.request_bytes_most())
            with self._one_at_a_time:
                reply = self._vault.answer(data)
        except MotetError as error:
            log.warning("turned-away", extra={"code": error.code, "why": error})
            self._metrics.turned_away(error.code)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.code)
        except Exception as error:  # noqa: BLE001  (nothing but a code may leave)
            logs.internal_error(log, error)
            self._metrics.turned_away("E-INTERNAL")
            context.abort(grpc.StatusCode.INTERNAL, "E-INTERNAL")
        else:
            self._metrics.answered()
            context.add_callback(self._settle)
            for start in range(0, len(reply), CHUNK_BYTES):
                yield vault_pb2.Chunk(data=reply[start : start + CHUNK_BYTES])

    def _settle(self) -> None:
        """Do what nobody waits for, once the answer has left."""
        try:
            with self._one_at_a_time:
                self._vault.settle()
        except MotetError as error:  # a full disk, or the vault has just been closed: the coordinator says it again
            log.warning("not-settled", extra={"code": error.code})

    @override
    def State(self, request: vault_pb2.StateRequest, context: grpc.ServicerContext) -> vault_pb2.StateReply:
        return vault_pb2.StateReply(hospital=self._vault.name)


def _collect(chunks: Iterator[vault_pb2.Chunk], *, most: int) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk.data
        if len(data) > most:
            raise BadEnvelope("An envelope is too large.", action="Check the coordinator.")
    return bytes(data)


def serve(folder: Path, *, progress: Progress, ready: threading.Event, stop: threading.Event) -> None:
    """Prepare every approved study, then answer on the socket until `stop` is set."""
    home = Home(folder)
    site = read_site(home)
    socket = home.socket(site)
    torch.set_num_threads(1)  # several vaults may share a machine; sums do not depend on it
    threadpool_limits(1)  # NumPy's BLAS: a second thread makes a training step slower (CONTRIBUTING.md, decision 21)
    with hold(home.lock, busy="A vault runs on this folder already."):
        for part in (home.state, home.cohorts):  # a backup need not hold them
            part.mkdir(mode=0o700, exist_ok=True)
        vault = Vault(home, clock=lambda: int(time.time()), progress=progress)
        try:
            socket.unlink(missing_ok=True)  # one that a killed vault left: as long as there is none, this one reads the scans
            for study_hash in site.policy.allowed_studies:
                vault.prepare(study_hash)
            server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
            with metrics.kept(home.folder, ledger=vault.ledger, policy=lambda: read_site(home).policy) as kept:
                vault_pb2_grpc.add_VaultServicer_to_server(_Service(vault, kept), server)  # type: ignore[no-untyped-call]
                server.add_insecure_port(f"unix:{socket}")  # a Unix socket: the folder's 0700 is the lock on it
                server.start()
                if socket.parent != folder.absolute():  # shared with the relay's user: the group may knock
                    socket.chmod(0o660)
                for one in device.picked():
                    log.info("training-device", extra={"at": one.name})
                log.info("vault-ready")
                ready.set()
                stop.wait()
                server.stop(grace=5).wait()
                log.info("vault-stopped")
        finally:
            vault.close()
            socket.unlink(missing_ok=True)
