"""Three ways to carry a federation's envelopes: a call, the lane over TLS, Flower's messages over the vaults' own sockets."""

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import grpc

from client import serve, vault_pb2_grpc
from client.config import Home, Policy, read_site
from client.metrics import Metrics
from client.relay import RelayHome
from common.errors import MotetError
from server import certificates
from server.exchange import Carrier
from tests import lanes

Kind = Literal["direct", "stream", "message"]
KINDS: tuple[Kind, ...] = ("direct", "stream", "message")
LOST = "E-LATE"  # what is lost on the way is said at once: the deadlines have tests of their own


@contextlib.contextmanager
def opened(one: Any, *, run: str, folder: Path) -> Iterator[Carrier]:
    """Carry a federation's envelopes by `one.carrying`."""
    kinds = {"direct": contextlib.nullcontext, "stream": over_the_lane, "message": over_messages}
    if one.carrying == "direct":
        yield one
        return
    with kinds[one.carrying](one, run=run, folder=folder) as carrier:
        yield carrier


@contextlib.contextmanager
def over_the_lane(one: Any, *, run: str, folder: Path) -> Iterator[Carrier]:
    """Carry over real streams on loopback, with the certificates that the roster names."""
    place = folder / "lane"
    if not place.exists():
        for part in ("keys", "certificates"):
            (place / part).mkdir(parents=True)
        certificates.create(place / "certificates", keys=place / "keys", federation="phantoms", hosts=["127.0.0.1"])
    lane = lanes.listening(place, one.roster, run=run)
    try:
        for name, home in one.homes.items():
            at = lanes.where(place, RelayHome(home.relay), port=lane.port)
            lanes.Carrying(at, run=run, ask=lambda data, name=name: _said(one, name, data))
        lanes.until(lambda: lane.present() == set(one.homes))
        yield lane
    finally:
        lane.close()


def _said(one: Any, name: str, data: bytes) -> bytes | str:
    try:
        return one.answer(name, data) or LOST
    except MotetError as error:
        return error.code


class _Hooked:
    """A vault as its socket's service knows it, behind the federation's `before` and `after`."""

    def __init__(self, one: Any, name: str) -> None:
        self.one, self.name = one, name

    def answer(self, data: bytes) -> bytes:
        said = self.one.answer(self.name, data)
        if isinstance(said, bytes):
            return said
        error = MotetError("what a hook says", action="")
        error.code = said or LOST  # type: ignore[misc]
        raise error

    def request_bytes_most(self) -> int:
        return int(self.one.vaults[self.name].request_bytes_most())

    def settle(self) -> None:
        self.one.vaults[self.name].settle()


def _policy(home: Home) -> Policy:
    return read_site(home).policy


@contextlib.contextmanager
def over_messages(one: Any, *, run: str, folder: Path) -> Iterator[Carrier]:
    """Carry by Flower's messages: the real handlers of the relay, and each vault's real service on a Unix socket."""
    from server.messages import MessageCarrier
    from tests.localgrid import LocalGrid

    with contextlib.ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="motet-")))  # short: a socket's path has a limit
        nodes = {}
        for node, name in enumerate(one.homes, start=1):
            server = grpc.server(ThreadPoolExecutor(2))
            policy = partial(_policy, one.homes[name])
            metrics = Metrics(sockets / f"{name}.prom", ledger=one.vaults[name].ledger, policy=policy)
            vault_pb2_grpc.add_VaultServicer_to_server(serve._Service(_Hooked(one, name), metrics), server)
            server.add_insecure_port(f"unix:{sockets / name}")
            server.start()
            stack.callback(lambda server=server: server.stop(0.2).wait())
            nodes[node] = (name, {"vault": str(sockets / name)})
        yield MessageCarrier(stack.enter_context(LocalGrid(nodes)), tuple(one.homes), patience_s=5)
