"""A C-STORE receiver: named application entities may put objects of the kinds that are read here into the inbox."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from client.sources.inbox import OBJECT_BYTES_MOST, Inbox, Put, Tally
from client.sources.network import KINDS, SYNTAXES, VERIFICATION, Tls, checked_title, context, entity
from common.errors import ConfigError, PortInUse

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.]")
SUCCESS, NO_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000  # PS3.4, B.2.3
STATUS: Final = {
    Put.STORED: SUCCESS,
    Put.AGAIN: SUCCESS,
    Put.DISK_FULL: NO_RESOURCES,
    Put.NOT_WRITTEN: NO_RESOURCES,
    Put.TOO_LARGE: NO_RESOURCES,
    Put.NOT_DICOM: NOT_UNDERSTOOD,
}
TITLES_MOST: Final = 100  # titles of rejected callers that are remembered, so that none is logged twice
log = logging.getLogger("motet.receive")


@dataclass(slots=True)
class Store:
    """Answers C-STORE with what the inbox says, and cuts an association that sends more than one object may have."""

    inbox: Inbox
    tally: Tally = field(default_factory=Tally.empty)
    _sent: dict[Association, int] = field(default_factory=dict)
    _strangers: set[str] = field(default_factory=set)

    def handlers(self) -> list[tuple[evt.EventType, object]]:
        """Return pynetdicom's handlers."""
        return [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_CONN_CLOSE, self._forget),
            (evt.EVT_REJECTED, self._rejected),
        ]

    def _store(self, event: Event) -> int:
        self._sent[event.assoc] = 0
        outcome = self.inbox.put(event.encoded_dataset())  # bytes as they came; nothing is decoded here
        self.tally.add(outcome)
        return STATUS[outcome]

    def _count(self, event: Event) -> None:
        self._sent[event.assoc] = self._sent.get(event.assoc, 0) + len(event.data)
        if self._sent[event.assoc] > OBJECT_BYTES_MOST + (1 << 20):
            self.tally.add(Put.TOO_LARGE)
            self._sent[event.assoc] = 0
            if event.assoc.dul.socket is not None:
                with contextlib.suppress(OSError):
                    event.assoc.dul.socket.close()

    def _forget(self, event: Event) -> None:
        self._sent.pop(event.assoc, None)

    def _rejected(self, event: Event) -> None:
        """Count it; log the title by which the caller named itself, each once: a flood of them fills no log."""
        self.tally.add("REJECTED")
        if not event.assoc.is_acceptor:  # we are the one who was rejected, and whoever called says so
            return
        title = _shown(event.assoc.requestor.ae_title)
        if title not in self._strangers and len(self._strangers) < TITLES_MOST:
            self._strangers.add(title)
            log.warning("association-rejected", extra={"aet": title})


def _shown(title: str) -> str:
    """Return a caller's AE title as a log may hold it: at most 16 letters, digits, dots, hyphens and underscores."""
    return _UNSAFE.sub("-", title.strip())[:16].lstrip("-_.") or "unnamed"


@contextlib.contextmanager
def listening(store: Store, *, title: str, allowed: Sequence[str], host: str, port: int, tls: Tls | None) -> Iterator[int]:
    """Receive in threads while the context lasts; yield the port (0 asks for a free one).

    An association is rejected unless it calls `title` and its own title is in `allowed`; titles are not secrets, so without
    `tls` whoever reaches the port can send. Objects of other kinds and lossy transfer syntaxes are not negotiated.
    Raises ConfigError on an empty or malformed list, PortInUse.
    """
    if not allowed:
        raise ConfigError("Nobody may send.", action="Name at least one AE title with --allow.")
    made = entity(title)
    made.require_called_aet = True
    made.require_calling_aet = [checked_title(one) for one in allowed]
    made.add_supported_context(VERIFICATION)
    for kind in KINDS:
        made.add_supported_context(kind, list(SYNTAXES))
    try:
        server = made.start_server(
            (host, port),
            block=False,
            ssl_context=None if tls is None else context(tls, serving=True),
            evt_handlers=store.handlers(),  # type: ignore[arg-type]
        )
    except OSError as error:
        raise PortInUse(f"Port {port} cannot be used ({error.strerror}).", action="Choose another with --port.") from None
    if server is None:
        raise PortInUse(f"Port {port} cannot be used.", action="Choose another with --port.")
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        made.shutdown()
