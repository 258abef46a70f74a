"""motet-hospital receive and pull: the process beside the vault that has a network and no key, and only fills the inbox."""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from client.options import AsJson
from client.sources.inbox import Inbox, Tally
from client.sources.wanted import MODALITIES, Wanted, wanted
from common import files, findings
from common.errors import ConfigError, PullFailed

if TYPE_CHECKING:
    from client.sources.listen import Store
    from client.sources.network import Tls
    from client.sources.retrieve import Peer

LOOK_S: Final = 5.0
TELL_S: Final = 60.0
CREDENTIALS_BYTES_MOST: Final = 1 << 16
out, said = Console(highlight=False), Console(highlight=False, stderr=True)
log = logging.getLogger("motet.sources")
pull = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Fetch series into the scans inbox: from a PACS (get, move), a DICOMweb server (web) or an export folder (folder).",
)

InboxAt = Annotated[Path, typer.Option("--inbox", help="Folder of the inbox; the vault's `scans` is its subfolder `scans`.")]
Ours = Annotated[str, typer.Option("--aet", help="Our AE title.")]
PeerAt = Annotated[str, typer.Option("--peer", help="HOST:PORT of the PACS.")]
PeerTitle = Annotated[str, typer.Option("--peer-aet", help="The AE title of the PACS.")]
Studies = Annotated[Path | None, typer.Option("--studies", help="File with one StudyInstanceUID a line.")]
Dates = Annotated[str | None, typer.Option("--dates", help="YYYYMMDD-YYYYMMDD: all studies of these days.")]
Modality = Annotated[list[str], typer.Option("--modality", help="Which series; may be repeated.")]
Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")]
Certificate = Annotated[Path | None, typer.Option("--certificate", help="Our TLS certificate, PEM.")]
Key = Annotated[Path | None, typer.Option("--key", help="Its private key, PEM.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="The authority that signed the other side's certificate, PEM.")]
Plain = Annotated[bool, typer.Option("--plain", help="No TLS: only on a network that is yours.")]
CHOSEN: Final = list(MODALITIES)
LOST: Final = ("FAILED_SERIES", "NOT_SENT", "NOT_WRITTEN", "DISK_FULL", "TOO_LARGE", "NOT_DICOM")
LOST_OF_A_FOLDER: Final = ("UNREADABLE", "NOT_SETTLED", "TOO_LARGE")  # what was tried in vain ends as NOT_SETTLED


def receive(
    inbox: InboxAt,
    aet: Ours,
    allow: Annotated[list[str], typer.Option(help="AE title that may send; may be repeated.")],
    host: Host = "127.0.0.1",
    port: Port = 11112,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Take what a PACS sends (C-STORE) until Ctrl-C. Only AE titles that --allow names, over TLS or with --plain.

    AE titles are no secrets: with --plain, whoever reaches the port and knows one can send. Run it as a user of its own.
    """
    from client.sources.listen import Store, listening  # noqa: PLC0415  (pynetdicom is slow to import)

    os.umask(0o027)
    stop = _stopped_by_signal()
    store = Store(Inbox(inbox))
    tls = _tls(certificate, key, ca, plain=plain)
    with listening(store, title=aet, allowed=allow, host=host, port=port, tls=tls) as bound:
        (said if as_json else out).print(f"receiving as {aet} on {host}:{bound}")
        with _counting(store.tally):
            stop.wait()
    _tell(store.tally, as_json=as_json)


@pull.command("get")
def get(
    inbox: InboxAt,
    aet: Ours,
    peer: PeerAt,
    peer_aet: PeerTitle,
    studies: Studies = None,
    dates: Dates = None,
    modality: Modality = CHOSEN,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Fetch over our own connection (C-GET); nothing listens here. Exit code 37 when something was not sent."""
    from client.sources import retrieve  # noqa: PLC0415  (pynetdicom is slow to import)

    asked = wanted(studies=studies, dates=dates, modalities=modality)
    whom = _peer(peer, title=peer_aet, ours=aet, tls=_tls(certificate, key, ca, plain=plain))
    _into(inbox, lambda store: retrieve.get(whom, wanted=asked, store=store), as_json=as_json)


@pull.command("move")
def move(
    inbox: InboxAt,
    aet: Ours,
    peer: PeerAt,
    peer_aet: PeerTitle,
    studies: Studies = None,
    dates: Dates = None,
    modality: Modality = CHOSEN,
    host: Host = "127.0.0.1",
    port: Port = 11112,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Let the PACS send to --port (C-MOVE); it must know our title, host and port. Exit code 37 when something was not sent."""
    from client.sources import retrieve  # noqa: PLC0415  (pynetdicom is slow to import)

    asked = wanted(studies=studies, dates=dates, modalities=modality)
    whom = _peer(peer, title=peer_aet, ours=aet, tls=_tls(certificate, key, ca, plain=plain))
    _into(inbox, lambda store: retrieve.move(whom, wanted=asked, store=store, host=host, port=port), as_json=as_json)


@pull.command("web")
def web(
    inbox: InboxAt,
    root: Annotated[str, typer.Option(help="Root of DICOMweb: https://HOST/PATH.")],
    credentials: Annotated[
        Path | None, typer.Option(help="File, 0600: `user:password`, or `bearer TOKEN`.", show_default=False)
    ] = None,
    studies: Studies = None,
    dates: Dates = None,
    modality: Modality = CHOSEN,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Fetch by QIDO-RS and WADO-RS. Exit code 37 when something was not sent."""
    from client.sources.web import Server, fetch  # noqa: PLC0415  (httpx is slow to import)

    os.umask(0o027)
    asked: Wanted = wanted(studies=studies, dates=dates, modalities=modality)
    user, token = (None, None) if credentials is None else _credentials(credentials)
    tally = Tally.empty()
    server = Server(root=root, user=user, token=token, ca=None if ca is None else str(ca))
    with _counting(tally):
        fetch(server, wanted=asked, inbox=Inbox(inbox), tally=tally)
    _finish(tally, as_json=as_json)


@pull.command("folder")
def folder(
    inbox: InboxAt,
    source: Annotated[Path, typer.Option("--from", help="Folder that another program exports to; it is only read.")],
    once: Annotated[
        bool, typer.Option("--once", help="Take what is there now, then end; give up what keeps changing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a folder until Ctrl-C: each file is copied into the inbox once it has not changed for ten seconds.

    What cannot be read is counted as UNREADABLE and tried again when its permissions change. With --once the command ends when
    all that was there is in the inbox, or with exit code 37 when some of it is not.
    """
    from client.sources.folder import Watch  # noqa: PLC0415

    if not source.is_dir():
        raise ConfigError("The folder to watch is not there.", action="Check --from.")
    os.umask(0o027)
    stop = _stopped_by_signal()
    watch = Watch(source, Inbox(inbox))
    (said if as_json else out).print("reading" if once else "watching")
    with _counting(watch.tally):
        (watch.once if once else watch.until)(stop, every_s=LOOK_S, clock=time.monotonic)
    if once:
        _finish(watch.tally, as_json=as_json, lost=LOST_OF_A_FOLDER)
    else:
        _tell(watch.tally, as_json=as_json)


def _peer(address: str, *, title: str, ours: str, tls: "Tls | None") -> "Peer":
    from client.sources.retrieve import Peer  # noqa: PLC0415

    host, port = findings.address(address)
    return Peer(host=host, port=port, title=title, ours=ours, tls=tls)


def _into(inbox: Path, fetch: Callable[["Store"], None], *, as_json: bool) -> None:
    """Let `fetch` fill the inbox, say how far it is, and at the end what came."""
    from client.sources.listen import Store  # noqa: PLC0415

    os.umask(0o027)
    store = Store(Inbox(inbox))
    with _counting(store.tally):
        fetch(store)
    _finish(store.tally, as_json=as_json)


def _tls(certificate: Path | None, key: Path | None, ca: Path | None, *, plain: bool) -> "Tls | None":
    from client.sources.network import Tls  # noqa: PLC0415

    if plain == any((certificate, key, ca)):
        raise ConfigError("TLS or not is not said.", action="Give --certificate, --key and --ca, or --plain.")
    if plain:
        return None
    if certificate is None or key is None or ca is None:
        raise ConfigError("TLS needs three files.", action="Give --certificate, --key and --ca.")
    return Tls(certificate=certificate, key=key, ca=ca)


def _credentials(path: Path) -> tuple[tuple[str, str] | None, str | None]:
    text = files.read(path, most_bytes=CREDENTIALS_BYTES_MOST).decode("utf-8", "replace").strip()
    if path.stat().st_mode & 0o077:
        raise ConfigError("The credentials can be read by others.", action=f"Run `chmod 600 {path}`.")
    kind, _, token = text.partition(" ")
    if kind.lower() == "bearer" and token:
        return None, token.strip()
    user, colon, password = text.partition(":")
    if not colon:
        raise ConfigError("The credentials are malformed.", action="Write `user:password`, or `bearer TOKEN`.")
    return (user, password), None


def _stopped_by_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@contextlib.contextmanager
def _counting(tally: Tally) -> Iterator[None]:
    """While something comes, say how much so far: beside a person's prompt at once, in a log once a minute where it changed."""
    done = threading.Event()

    def tell() -> None:
        told: dict[str, int] = {}
        with said.status("nothing yet") as shown:
            while not done.wait(1.0 if said.is_terminal else TELL_S):
                shown.update(_words(tally))
                if not said.is_terminal:
                    for state, objects in sorted(_counts(tally).items()):
                        if told.get(state) != objects:
                            log.info("so-far", extra={"state": state, "objects": objects})
                            told[state] = objects

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        done.set()
        telling.join()


def _tell(tally: Tally, *, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps({"counts": tally.counts}))
        return
    out.print(_words(tally))


def _words(tally: Tally) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(_counts(tally).items())) or "nothing came"


def _counts(tally: Tally) -> dict[str, int]:
    with tally.lock:
        return {str(what): count for what, count in tally.counts.items()}


def _finish(tally: Tally, *, as_json: bool, lost: Sequence[str] = LOST) -> None:
    """Say what came; raise PullFailed where something did not: `lost` names what counts as that."""
    _tell(tally, as_json=as_json)
    missing = sum(tally.counts.get(what, 0) for what in lost)
    if missing:
        raise PullFailed(f"{missing} series or objects are not in the inbox.", action="Pull again; the counts say why.")
