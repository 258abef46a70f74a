"""Who is let into the lane: the run's relays, by the certificates that the roster names, and nobody else."""

import contextlib
import socket
import threading
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import client.lane
import server.lane
from client import relay
from common import lane_pb2, lane_pb2_grpc, roster
from common.errors import ConfigError, LinkLost, PortInUse
from tests import lanes
from tests.lanes import JUNK, NAMES, SHOUT, Carrying, echo, ending, piece, until, wave


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


def test_a_roster_whose_certificates_could_be_confused_is_refused(lane_roster, tmp_path):
    folder, signed, _ = lane_roster
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


def test_an_unreadable_certificate_keeps_its_hospital_out_and_no_other(lane_roster, quick, caplog):
    folder, signed, homes = lane_roster
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
