"""The page over a real socket: who asks under a strange name, method, path or size gets a status and nothing else."""

import http.client
import json
import re
import socket
import threading
from contextlib import contextmanager

import pytest

from common.errors import ConfigError, PortInUse
from server import page
from server.view import view
from tests import federation

TITLE = '<script>alert(1)</script> & "quotes"'


def state(*events, title=TITLE):
    study = federation.study(title=title)
    return view(list(events), run="0123456789abcdef", study=study, hospitals=federation.HOSPITALS, now=1_795_000_000.0)


@contextmanager
def served(look):
    """A page on a free port: yields the port."""
    stop, ready, ports = threading.Event(), threading.Event(), []

    def started(port):
        ports.append(port)
        ready.set()

    thread = threading.Thread(target=page.serve, args=(look,), kwargs={"port": 0, "ready": started, "stop": stop})
    thread.start()
    try:
        assert ready.wait(10)
        yield ports[0]
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port():
    with served(lambda: state({"type": "stage", "stage": "</p><b>set-up", "time": 1_794_999_990.0})) as number:
        yield number


def ask(port, path="/", *, method="GET", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    return answer, answer.read().decode()


def raw(port, data):
    """Send bytes as they are; return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        found = b""
        while part := link.recv(65536):
            found += part
        return found


def test_the_three_routes_answer(port):
    answer, text = ask(port)
    assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")
    assert all(name in text for name in federation.HOSPITALS)
    assert json.loads(ask(port, "/state.json")[1])["run"] == "0123456789abcdef"
    assert "motet_run_present 1.0" in ask(port, "/metrics")[1]


def test_every_text_is_escaped(port):
    _, text = ask(port)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34;" in text
    assert "</p><b>" not in text
    assert text.count("<script>") == 1


def test_the_page_may_load_nothing_from_elsewhere(port):
    answer, text = ask(port)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.findall(r'(?:src|href|action)="(?!/state\.json"|/metrics")[^"]*"', text)
    assert "Access-Control-Allow-Origin" not in answer.headers
    expected = {"Cache-Control": "no-store", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"}
    assert {name: answer.headers[name] for name in expected} == expected
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:65535", "[::1]:80"])
def test_loopback_names_are_answered(port, host):
    assert ask(port, headers={"Host": host})[0].status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "127.0.0.2",
        "0.0.0.0",
        "",
        "localhost@evil",
        "[::]",
    ],
)
@pytest.mark.parametrize("path", ["/", "/state.json", "/metrics"])
def test_a_strangers_name_is_refused(port, host, path):
    answer, text = ask(port, path, headers={"Host": host})
    assert (answer.status, text) == (421, "Misdirected Request\n")


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n"])
def test_no_host_and_two_hosts_are_refused(port, hosts):
    assert raw(port, b"GET / HTTP/1.1\r\n" + hosts + b"\r\n").startswith(b"HTTP/1.0 421 ")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_but_get_and_head_is_answered(port, method):
    answer, text = ask(port, method=method)
    assert (answer.status, answer.headers["Allow"], text) == (405, "GET, HEAD", "Method Not Allowed\n")


def test_a_made_up_method_is_not_repeated(port):
    found = raw(port, b"<SCRIPT> / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert found.startswith(b"HTTP/1.0 501 ")
    assert b"SCRIPT" not in found


def test_head_has_the_headers_and_no_body(port):
    answer, text = ask(port, method="HEAD")
    assert (answer.status, text) == (200, "")
    assert int(answer.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/journal.jsonl", "/?x=1", "/state.json/"),
        *("http://evil.example/", "*", "/\\..\\..", "/favicon.ico", "/state.json%00", "/index.html"),
    ],
)
def test_any_other_path_is_not_there_and_is_not_repeated(port, path):
    found = raw(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.0 404 ")
    assert found.endswith(b"\r\n\r\nNot Found\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", b"505"),
        (b"GET / HTTP/x\r\nHost: localhost\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01 \r\n\r\n", b"400"),
    ],
    ids=["line", "header", "headers", "version", "no-version", "tls"],
)
def test_what_is_too_much_or_no_http_gets_a_status(port, data, status):
    try:
        assert raw(port, data).startswith(b"HTTP/1.0 " + status)
    except ConnectionResetError:
        assert len(data) > 65_536  # the server does not read all of it before it closes
    assert ask(port)[0].status == 200


def test_those_who_connect_and_say_nothing_keep_nobody_away_for_long(port, monkeypatch):
    monkeypatch.setattr(page._Handler, "timeout", 0.3)
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3 * page.AT_ONCE)]
    try:
        for link in silent:
            assert link.recv(1) == b""  # closed: at once beyond AT_ONCE, after the time-out before
        assert ask(port)[0].status == 200
    finally:
        for link in silent:
            link.close()


def test_only_loopback_listens(port):
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in {*others, "127.0.0.2"}:
        with socket.socket() as probe:
            probe.settimeout(1)
            assert probe.connect_ex((address, port)) != 0


def test_a_port_that_is_taken_is_named(port):
    with pytest.raises(PortInUse, match=str(port)):
        page.serve(lambda: None, port=port, ready=lambda _port: None, stop=threading.Event())


def test_without_a_run_the_page_says_so():
    with served(lambda: None) as port:
        assert "There is no run yet" in ask(port)[1]
        assert ask(port, "/state.json")[1] == "null"


def test_what_cannot_be_read_is_a_status_without_its_text():
    def broken():
        raise ConfigError("/a/path of mine cannot be read.", action="Mend it.")

    with served(broken) as port:
        answer, text = ask(port)
    assert (answer.status, text) == (503, "Service Unavailable\n")
