"""The door before a real SuperLink and a real lane: a coordinator's folder, what is sent from outside, relays that come in."""

import base64
import contextlib
import json
import socket
import ssl
import threading
import time
from datetime import UTC, datetime

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from client import lane as relays
from client.relay import RelayHome
from common import ports
from common.errors import LinkLost
from server import certificates, config, door, superlink
from server.config import Settings
from server.exchange import Exchange
from server.journal import Journal
from server.lane import Lane
from tests import federation
from tests.federation import HOSPITALS

OPEN_S = 20
STUDY = federation.study(patience_s=20)  # machines are shared


class Coordinator:
    """A coordinator's folder, its address, and what its door wrote down."""

    def __init__(self, folder):
        self.settings = Settings(
            name="coordinator",
            federation="phantoms",
            **{name: f"127.0.0.1:{ports.free()}" for name in ("address", "superlink", "lane")},
        )
        self.home = config.create(folder, settings=self.settings)
        certificates.create(
            self.home.certificates, keys=self.home.keys, federation="phantoms", hosts=(self.settings.host, "127.0.0.1")
        )
        superlink.write_connection(self.home, self.settings)
        self.ca = self.home.certificates / "ca.crt"
        self.host, self.port = config.split(self.settings.address)

    def said(self, name, *, event, timeout_s=5.0, **facts):
        """Return the last line of the door's log `name` with these facts, once it is there."""
        until = time.monotonic() + timeout_s
        while True:
            lines = [json.loads(line) for line in (door.folder(self.home) / "logs" / f"{name}.log").read_text().splitlines()]
            found = [line for line in lines if line["event"] == event and facts.items() <= line.items()]
            if found or time.monotonic() > until:
                assert found, lines[-5:]
                return found[-1]
            time.sleep(0.05)

    def raw(self, data, *, server_name=None, alpn=()):
        """Send bytes over TLS and return what comes back before the end, or before a second of silence."""
        trust = ssl.create_default_context(cafile=str(self.ca))
        trust.check_hostname = server_name is not None
        if alpn:
            trust.set_alpn_protocols(list(alpn))
        answer = b""
        plain = socket.create_connection((self.host, self.port), timeout=0.5)
        with trust.wrap_socket(plain, server_hostname=server_name) as link:
            link.sendall(data)
            with contextlib.suppress(TimeoutError, ssl.SSLError, ConnectionError):
                while piece := link.recv(65536):
                    answer += piece
        return answer

    def where(self, relay):
        return relays.Where(address=self.settings.address, ca=self.ca, key=relay.tls_key, certificate=relay.certificate)


def request(path, *, method="POST", host="hub", headers=(), body=b""):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def activate(coordinator, key, *, signed_at=None):
    """Ask the fleet interface to let a SuperNode in, as Flower's client does."""
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    stamp = (signed_at or datetime.now(UTC)).isoformat()
    signature = key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
    return httpx.post(
        f"https://{coordinator.settings.address}/v1/fleet/activate-node",
        content=ActivateNodeRequest(public_key=public, heartbeat_interval=30).SerializeToString(),
        headers={
            "content-type": PROTOBUF_MEDIA_TYPE,
            "flwr-public-key": base64.b64encode(public).decode(),
            "flwr-signature": base64.b64encode(signature).decode(),
            "flwr-timestamp": stamp,
        },
        verify=ssl.create_default_context(cafile=str(coordinator.ca)),
    )


def node_key(relay):
    return serialization.load_ssh_private_key(relay.node_key.read_bytes(), password=None)


@contextlib.contextmanager
def open_lane(opened, hospitals, *, run):
    heard = []
    served = Lane(
        run=run,
        roster=hospitals.roster,
        listen=opened.settings.lane,
        key=opened.home.keys / "server.key",
        certificate=opened.home.certificates / "server.crt",
        heard=lambda name, state: heard.append((name, state)),
    )
    try:
        yield served, heard
    finally:
        served.close()


@contextlib.contextmanager
def relayed(opened, hospitals, *, run, ask=None):
    """Every hospital's relay, over the door, before its real vault; `ask` may stand between."""
    errors, threads = [], []
    for name in HOSPITALS:
        answer = hospitals.vaults[name].answer

        def carry(name=name, answer=answer):
            try:
                where = opened.where(RelayHome(hospitals.homes[name].relay))
                relays.carry(where, run=run, patience_s=20, ask=lambda data: ask(name, data, answer) if ask else answer(data))
            except LinkLost as error:
                errors.append((name, error))

        threads.append(threading.Thread(target=carry, daemon=True))
        threads[-1].start()
    try:
        yield errors
    finally:
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def wait_until(true, *, timeout_s=OPEN_S):
    end_ = time.monotonic() + timeout_s
    while not true() and time.monotonic() < end_:
        time.sleep(0.02)
    assert true()


def exchange_over(served, hospitals, folder, *, run):
    folder.mkdir()
    return Exchange(
        run=run,
        study=STUDY,
        roster=hospitals.roster,
        key=hospitals.key,
        carrier=served,
        journal=Journal(folder / "j"),
        folder=folder,
    )
