"""A small PACS and a small DICOMweb server for the tests; they answer C-FIND, C-GET, C-MOVE, QIDO and WADO."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event

from client.sources.network import FIND, GET, KINDS, MOVE, SYNTAXES, VERIFICATION

TITLE, OURS = "PACS", "MOTET"


def _matching(objects: list[Dataset], asked: Dataset) -> list[Dataset]:
    def wants(keyword: str, one: Dataset) -> bool:
        value = asked.get(keyword)
        if keyword == "StudyDate" and value and "-" in value:
            low, high = value.split("-")
            return low <= one.StudyDate <= high
        return not value or one.get(keyword) == value

    return [one for one in objects if all(wants(word, one) for word in ("StudyInstanceUID", "SeriesInstanceUID", "StudyDate"))]


@contextmanager
def pacs(objects: list[Dataset], *, destination: tuple[str, int] | None = None, ssl_context: object = None) -> Iterator[int]:
    """A PACS on loopback that holds `objects`; yields its port."""

    def find(event: Event) -> Iterator[tuple[int, Dataset | None]]:
        asked, seen = event.identifier, set()
        words = ["StudyInstanceUID"] + (["SeriesInstanceUID", "Modality"] if asked.QueryRetrieveLevel == "SERIES" else [])
        for one in _matching(objects, asked):
            key = tuple(one.get(word) for word in words)
            if key not in seen:
                seen.add(key)
                answer = Dataset()
                answer.QueryRetrieveLevel = asked.QueryRetrieveLevel
                for word in words:
                    setattr(answer, word, one.get(word))
                yield 0xFF00, answer

    def retrieve(event: Event) -> Iterator[object]:
        found = _matching(objects, event.identifier)
        if event.request.__class__.__name__ == "C_MOVE":
            yield destination
        yield len(found)
        for one in found:
            yield 0xFF00, one

    ae = AE(TITLE)
    for context in (VERIFICATION, FIND, GET, MOVE):
        ae.add_supported_context(context)
    for kind in KINDS:
        ae.add_supported_context(kind, list(SYNTAXES), scu_role=True, scp_role=True)
        ae.add_requested_context(kind, list(SYNTAXES))
    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, retrieve), (evt.EVT_C_MOVE, retrieve)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=ssl_context)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        ae.shutdown()


def send(objects: list[Dataset], *, port: int, ours: str = TITLE, called: str = OURS, tls_args: object = None) -> list[int]:
    """Send objects by C-STORE; return the statuses, none where the association is refused."""
    ae = AE(ours)
    ae.acse_timeout = ae.dimse_timeout = 20
    for kind, syntax in {(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in objects}:
        ae.add_requested_context(kind, syntax)
    ae.add_requested_context(VERIFICATION)
    link = ae.associate("127.0.0.1", port, ae_title=called, tls_args=tls_args)
    if not link.is_established:
        return []
    codes = []
    for one in objects:
        try:
            codes.append(link.send_c_store(one).get("Status", -1))
        except (ValueError, RuntimeError):  # not negotiated, or cut off
            codes.append(-1)
    if link.is_established:
        link.release()
    return codes


@contextmanager
def web(objects: list[Dataset], *, user: str | None = None, cut: bool = False) -> Iterator[str]:  # noqa: C901
    """A DICOMweb server on loopback that holds `objects`; yields its root. `cut` ends every WADO answer early."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            at = urlsplit(self.path)
            asked = {key: values[0] for key, values in parse_qs(at.query).items()}
            path = at.path.strip("/").split("/")
            if user is not None and self.headers.get("Authorization") != user:
                self.send_error(401)
            elif len(path) == 2:
                self._found(_matching(objects, _dataset(asked)), ["StudyInstanceUID"], asked)
            elif path[-1] == "series":
                self._found(
                    [one for one in objects if one.StudyInstanceUID == path[2]], ["SeriesInstanceUID", "Modality"], asked
                )
            else:
                self._series([one for one in objects if one.SeriesInstanceUID == path[-1]])

        def _found(self, found: list[Dataset], words: list[str], asked: dict[str, str]) -> None:
            rows = {tuple(one.get(word) for word in words) for one in found}
            start, size = int(asked.get("offset", 0)), int(asked.get("limit", 100))
            answers = []
            for row in sorted(rows)[start : start + size]:
                answer = Dataset()
                for word, value in zip(words, row, strict=True):
                    setattr(answer, word, value)
                answers.append(answer.to_json_dict())
            self._send(json.dumps(answers).encode(), "application/dicom+json")

        def _series(self, found: list[Dataset]) -> None:
            body = b""
            for one in found:
                buffer = io.BytesIO()
                pydicom.dcmwrite(buffer, one, enforce_file_format=True)
                body += b"--b\r\nContent-Type: application/dicom\r\n\r\n" + buffer.getvalue() + b"\r\n"
            body = body[:-900] if cut else body + b"--b--\r\n"
            self._send(body, 'multipart/related; type="application/dicom"; boundary=b')

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _dataset(asked: dict[str, str]) -> Dataset:
    wanted = Dataset()
    wanted.StudyDate = asked.get("StudyDate", "")
    return wanted
