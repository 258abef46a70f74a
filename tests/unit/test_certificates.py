"""Certificates: a TLS client that trusts the federation's authority reaches this host, and no other."""

import os
import socket
import ssl
import stat
import threading

import pytest
from cryptography import x509

from common.errors import AlreadyExists
from server import certificates


def create(folder, *, host="127.0.0.1", federation="fed"):
    for part in ("keys", "certificates"):
        (folder / part).mkdir(exist_ok=True, parents=True)
    certificates.create(folder / "certificates", keys=folder / "keys", federation=federation, hosts=(host, "127.0.0.1"))


def handshake(folder, *, trusted, name):
    """Speak TLS over a socket pair; return the client's error, if any."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificates" / "server.crt", folder / "keys" / "server.key")
    client = ssl.create_default_context(cafile=str(trusted / "certificates" / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def serve():
        try:
            with server.wrap_socket(far, server_side=True):
                pass
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name):
            return None
    except ssl.SSLError as error:
        return error
    finally:
        near.close()
        thread.join(10)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "hub.example"])
def test_a_client_that_trusts_the_authority_reaches_the_host(host, tmp_path):
    create(tmp_path, host=host)
    assert handshake(tmp_path, trusted=tmp_path, name=host) is None


def test_another_host_and_another_authority_are_refused(tmp_path):
    create(tmp_path / "one", host="hub.example")
    create(tmp_path / "two", host="hub.example")
    assert isinstance(handshake(tmp_path / "one", trusted=tmp_path / "one", name="other.example"), ssl.SSLError)
    assert isinstance(handshake(tmp_path / "one", trusted=tmp_path / "two", name="hub.example"), ssl.SSLError)


def test_the_server_cannot_sign_certificates(tmp_path):
    create(tmp_path)
    server = x509.load_pem_x509_certificate((tmp_path / "certificates" / "server.crt").read_bytes())
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    ca = x509.load_pem_x509_certificate((tmp_path / "certificates" / "ca.crt").read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_private_keys_are_private_under_any_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        create(tmp_path)
    finally:
        os.umask(before)
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600
    for name in ("ca.crt", "server.crt"):
        assert b"PRIVATE" not in (tmp_path / "certificates" / name).read_bytes()


def test_a_second_time_is_refused_and_changes_nothing(tmp_path):
    create(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExists):
        create(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
