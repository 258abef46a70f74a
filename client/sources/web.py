"""Pulls series from a DICOMweb server by QIDO-RS and WADO-RS (PS3.18); the objects end in the inbox."""

import hashlib
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from client.sources.inbox import OBJECT_BYTES_MOST, Inbox, Tally
from client.sources.network import TIMEOUT_S
from client.sources.wanted import UID, Wanted
from common.errors import ConfigError, PullFailed

STUDY_UID, SERIES_UID, MODALITY = "0020000D", "0020000E", "00080060"
PAGE: Final = 200
ANSWER_BYTES_MOST: Final = 16 << 20
HEAD_BYTES_MOST: Final = 16 << 10
PAGES_MOST: Final = 5000
FOUND_MOST: Final = 1_000_000  # studies, or series of a study
BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A DICOMweb root, and what it wants to see: a user with a password, or a bearer token."""

    root: str
    user: tuple[str, str] | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: str | None = None  # a file; else the system's authorities


def fetch(server: Server, *, wanted: Wanted, inbox: Inbox, tally: Tally) -> None:
    """Fetch every series that is wanted, one request each, instance by instance into the inbox.

    A series that fails is counted as FAILED_SERIES and the next one is asked for. Redirections are not followed; plain http is
    for loopback only. Raises ConfigError on a bad address, PullFailed where the server does not answer the query.
    """
    with _client(server) as client:
        for study, series in list(_series(client, wanted=wanted)):
            try:
                for part in _instances(client, path=f"studies/{study}/series/{series}"):
                    tally.add(inbox.put(part))
            except (httpx.HTTPError, PullFailed):
                tally.add("FAILED_SERIES")
            else:
                tally.add("SERIES")


def _client(server: Server) -> httpx.Client:
    try:
        root = httpx.URL(server.root.rstrip("/") + "/")
        trust = ssl.create_default_context(cafile=server.ca)
    except (httpx.InvalidURL, OSError, ssl.SSLError):
        raise ConfigError(
            "The server's address or --ca cannot be used.", action="Give https://HOST/PATH, and a PEM file."
        ) from None
    if root.scheme != "https" and not (root.scheme == "http" and root.host in {"localhost", "127.0.0.1", "::1"}):
        raise ConfigError("Scans travel over https only.", action="Give https://HOST/PATH; plain http is for loopback.")
    return httpx.Client(
        base_url=root,
        auth=server.user,
        headers={} if server.token is None else {"Authorization": f"Bearer {server.token}"},
        verify=trust,
        timeout=TIMEOUT_S,
        follow_redirects=False,
        trust_env=False,
    )


def _series(client: httpx.Client, *, wanted: Wanted) -> Iterator[tuple[str, str]]:
    asked = {"StudyDate": wanted.dates, "includefield": STUDY_UID}
    studies = wanted.studies or tuple(_value(one, STUDY_UID) for one in _found(client, "studies", asked=asked))
    for study in dict.fromkeys(studies):
        if UID.match(study):
            for one in _found(client, f"studies/{study}/series", asked={}):
                series = _value(one, SERIES_UID)
                if UID.match(series) and _value(one, MODALITY) in wanted.modalities:
                    yield study, series


def _found(client: httpx.Client, path: str, *, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what QIDO finds, page by page, until a page brings nothing new."""
    seen: set[bytes] = set()
    for page in range(PAGES_MOST):
        options = {**asked, "limit": str(PAGE), "offset": str(page * PAGE)}
        try:
            with client.stream("GET", path, params=options, headers={"Accept": "application/dicom+json"}) as answer:
                body = b"" if answer.status_code == httpx.codes.NO_CONTENT else _all(answer)
                found = json.loads(body) if body.strip() else []
        except (httpx.HTTPError, ValueError, RecursionError):
            raise PullFailed("The server does not answer the query.", action="Check its address, and user or token.") from None
        if not isinstance(found, list):
            raise PullFailed("The server's answer is not DICOM JSON.", action="Is this the root of DICOMweb?")
        new = {_digest(one): one for one in found if isinstance(one, dict)}
        new = {digest: one for digest, one in new.items() if digest not in seen}
        seen.update(new)
        if len(seen) > FOUND_MOST:
            raise PullFailed("The server finds too much.", action="Ask for fewer days at a time.")
        yield from new.values()
        if not new or len(found) < PAGE:
            return


def _digest(one: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(one, sort_keys=True).encode()).digest()


def _all(answer: httpx.Response) -> bytes:
    if answer.status_code != httpx.codes.OK:
        raise PullFailed(f"The server answers {answer.status_code}.", action="Check its address, and user or token.")
    body = bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > ANSWER_BYTES_MOST:
            raise PullFailed("The server finds too much.", action="Ask for fewer days at a time.")
    return bytes(body)


def _value(found: dict[str, Any], tag: str) -> str:
    values = found.get(tag, {}).get("Value") if isinstance(found.get(tag), dict) else None
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else ""


def _instances(client: httpx.Client, *, path: str) -> Iterator[bytes]:
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    with client.stream("GET", path, headers={"Accept": accept}) as answer:
        boundary = BOUNDARY.search(answer.headers.get("content-type", ""))
        if answer.status_code != httpx.codes.OK or boundary is None:
            raise PullFailed("The server does not send the series.", action="May our user read it?")
        yield from parts(answer.iter_bytes(), boundary=(boundary[1] or boundary[2]).encode())


def parts(pieces: Iterator[bytes], *, boundary: bytes) -> Iterator[bytes]:
    """Yield the bodies of a multipart/related stream (RFC 2046, 5.1); at most one part is in memory.

    Raises PullFailed on a part above 256 MiB, on a head above 16 KiB, and where the closing delimiter is missing: what came
    whole before has been yielded.
    """
    delimiter = b"\r\n--" + boundary
    buffer, inside = bytearray(b"\r\n"), False
    searched = 0
    for piece in pieces:
        buffer += piece
        while (at := buffer.find(delimiter, searched)) >= 0 and len(buffer) >= at + len(delimiter) + 2:
            if inside:
                yield _body(bytes(buffer[:at]))
            if buffer[at + len(delimiter) :].startswith(b"--"):
                return
            del buffer[: at + len(delimiter)]
            inside, searched = True, 0
        searched = max(0, len(buffer) - len(delimiter) - 2)
        if len(buffer) > OBJECT_BYTES_MOST + HEAD_BYTES_MOST:
            raise PullFailed("The server sends an object that is too large.", action="Leave that series out.")
    raise PullFailed("The server's answer ends early.", action="Pull again.")


def _body(part: bytes) -> bytes:
    head, found, _ = part[: HEAD_BYTES_MOST + 4].partition(b"\r\n\r\n")
    if not found:
        raise PullFailed("The server's answer is not multipart.", action="Is this the root of DICOMweb?")
    return part[len(head) + 4 :]
