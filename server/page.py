"""A read-only page of a run, served on loopback: three fixed routes, GET and HEAD, nothing else."""

import base64
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from typing_extensions import override

from common.errors import MotetError, PortInUse
from server import figures, metrics, words
from server.state import State, plain

LOOPBACK: Final = "127.0.0.1"
HOST: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?\Z", re.IGNORECASE)
ROUTES: Final = frozenset({"/", "/state.json", "/metrics"})
AT_ONCE: Final = 16  # requests; one more is not answered
TIMEOUT_S: Final = 5.0  # of a client that says nothing
BARS: Final = 40

log = logging.getLogger("motet.coordinator")

Look = Callable[[], State | None]


def serve(look: Look, *, port: int, ready: Callable[[int], None], stop: threading.Event) -> None:
    """Serve the run that `look` returns (None: there is none yet) on 127.0.0.1 until `stop` is set; port 0 takes a free one.

    Whoever has an account on this machine can read the page: it holds what the journal holds, and no upload.
    Guarantee: a request whose Host is no loopback name is refused, so that no name that another site points here can read it;
    no page of another origin gets an answer that it can read; nothing is written, nothing is fetched from anywhere else.
    Raises PortInUse when somebody listens there.
    """
    try:
        server = _Server(port, look)
    except OSError:
        raise PortInUse(f"Port {port} of {LOOPBACK} cannot be used.", action="Give another --page PORT, or 0.") from None
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            ready(server.server_address[1])
            stop.wait()
        finally:
            server.shutdown()
            thread.join()


def render(state: State | None) -> str:
    """Return the page; every text is escaped, nothing is fetched from anywhere but this page itself."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(epsilon=words.epsilon, clock=words.clock, duration=words.duration, link=words.link)
    source = resources.files("server").joinpath("page.html.j2").read_text(encoding="utf-8")
    bars = [] if state is None else [(one.number, one.seconds, one.opened) for one in state.rounds[-BARS:]]
    curve = [] if state is None else [(float(step), auc) for step, auc in state.curve]
    return environment.from_string(source).render(
        state=state,
        headline="" if state is None else words.headline(state),
        end="" if state is None else words.end(state),
        seconds="" if state is None else words.seconds(state.seconds_per_round),
        newest=[] if state is None else list(reversed(state.rounds[-BARS:])),
        rounds=figures.rounds(bars) if bars else None,
        curve=figures.curve(curve, key="auc", label="Held-out AUC", bounds=(0.0, 1.0)) if curve else None,
    )


class _Server(ThreadingHTTPServer):
    """Bound to loopback; a bounded number of requests at once."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 4 * AT_ONCE

    def __init__(self, port: int, look: Look) -> None:
        self.look, self.free = look, threading.BoundedSemaphore(AT_ONCE)
        self.one_at_a_time = threading.Lock()
        super().__init__((LOOPBACK, port), _Handler)

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    @override
    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is no event, and a traceback would quote it."""


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: each connection ends with its answer."""

    server: _Server
    timeout = TIMEOUT_S
    server_version, sys_version = "motet", ""
    default_request_version = "HTTP/1.0"  # what is no HTTP gets a whole answer too

    def do_GET(self) -> None:
        """Answer one of the routes."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer as GET does, without the body."""
        self._answer()

    def _refuse_method(self) -> None:
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method  # noqa: N815

    def _answer(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not HOST.match(hosts[0].strip()):
            log.warning("page-refused", extra={"status": int(HTTPStatus.MISDIRECTED_REQUEST)})
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path not in ROUTES:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            try:
                with self.server.one_at_a_time:
                    state = self.server.look()
                kind, body = _body(self.path, state)
            except MotetError as error:
                log.warning("page-not-shown", extra={"code": error.code})
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            else:
                self._send(HTTPStatus.OK, kind=kind, body=body)

    @override
    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the status alone; nothing of the request is repeated."""
        self.close_connection = True
        self._send(HTTPStatus(code), kind="text/plain", body=f"{HTTPStatus(code).phrase}\n".encode())

    def _send(self, status: HTTPStatus, *, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            **({"Allow": "GET, HEAD"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing of what a client wrote."""


def _body(path: str, state: State | None) -> tuple[str, bytes]:
    if path == "/metrics":
        return "text/plain; version=0.0.4", metrics.text(state)
    if path == "/state.json":
        return "application/json", json.dumps(plain(state), allow_nan=False).encode()
    return "text/html", render(state).encode()


def _policy() -> str:
    """Return the page's Content-Security-Policy: its own style and script by their hashes, its own address, nothing else."""
    source = resources.files("server").joinpath("page.html.j2").read_text(encoding="utf-8")
    parts = {"default-src": "'none'", "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'"}
    for tag in ("style", "script"):
        text = source.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        parts[f"{tag}-src"] = f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    return "; ".join(f"{name} {value}" for name, value in {**parts, "frame-ancestors": "'none'"}.items())


POLICY: Final = _policy()
