"""Pulls series from a PACS by C-FIND and then C-GET or C-MOVE; the objects end in the inbox."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import build_role
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association

from client.sources.listen import Store, listening
from client.sources.network import FIND, GET, KINDS, MOVE, SYNTAXES, Tls, checked_title, context, entity
from client.sources.wanted import UID, Wanted
from common.errors import PullFailed

PENDING: Final = (0xFF00, 0xFF01)
SUCCESS: Final = 0x0000
SERIES_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A PACS, and as whom we speak to it."""

    host: str
    port: int
    title: str
    ours: str
    tls: Tls | None


def get(peer: Peer, *, wanted: Wanted, store: Store) -> None:
    """Fetch over our own association (C-GET, PS3.4 C.4.3): nothing listens here.

    A series that fails is counted as FAILED_SERIES and the next one is asked for. Raises PullFailed where the PACS does not
    answer or refuses the query.
    """
    made = entity(peer.ours)
    made.add_requested_context(GET)
    for kind, syntax in itertools.product(KINDS, SYNTAXES):  # each apart: a context ends with one
        made.add_requested_context(kind, syntax)
    roles = [build_role(kind, scp_role=True) for kind in KINDS]
    for study, series in list(_series(peer, wanted=wanted)):
        with _associated(made, peer, roles=roles, store=store) as link:
            _retrieved(link.send_c_get(_of_series(study, series), GET), store=store)


def move(peer: Peer, *, wanted: Wanted, store: Store, host: str, port: int) -> None:
    """Let the PACS send to a receiver that listens on `host`:`port` for it alone (C-MOVE, PS3.4 C.4.2).

    The PACS must know our title, host and port. As `get` otherwise; raises PortInUse too.
    """
    made = entity(peer.ours)
    made.add_requested_context(MOVE)
    found = list(_series(peer, wanted=wanted))
    with listening(store, title=peer.ours, allowed=[peer.title], host=host, port=port, tls=peer.tls):
        for study, series in found:
            with _associated(made, peer, roles=[], store=store) as link:
                asked = _of_series(study, series)
                _retrieved(link.send_c_move(asked, peer.ours, MOVE), store=store)


def _series(peer: Peer, *, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Yield (StudyInstanceUID, SeriesInstanceUID) of what is wanted; answers that were not asked for are left out."""
    made = entity(peer.ours)
    made.add_requested_context(FIND)
    with _associated(made, peer, roles=[], store=None) as link:
        studies = list(wanted.studies)
        if not studies:
            asked = Dataset()
            asked.QueryRetrieveLevel, asked.StudyInstanceUID, asked.StudyDate = "STUDY", "", wanted.dates
            studies = [str(one.get("StudyInstanceUID", "")) for one in _found(link, asked)]
        for study in dict.fromkeys(studies):
            if not UID.match(study):
                continue
            asked = Dataset()
            asked.QueryRetrieveLevel, asked.StudyInstanceUID = "SERIES", study
            asked.SeriesInstanceUID = asked.Modality = ""
            for one in _found(link, asked):
                series = str(one.get("SeriesInstanceUID", ""))
                if UID.match(series) and one.get("Modality") in wanted.modalities:
                    yield study, series


def _found(link: Association, asked: Dataset) -> list[Dataset]:
    found = []
    for status, answer in link.send_c_find(asked, FIND):
        code = status.get("Status")
        if code in PENDING and answer is not None:
            found.append(answer)
            if len(found) > SERIES_MOST:
                raise PullFailed("The PACS finds too much.", action="Ask for fewer days at a time.")
        elif code != SUCCESS:
            raise PullFailed("The PACS did not answer the query.", action="Does it allow C-FIND to our AE title?")
    return found


def _of_series(study: str, series: str) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID, asked.SeriesInstanceUID = "SERIES", study, series
    return asked


def _retrieved(answers: Iterator[tuple[Dataset, Dataset | None]], *, store: Store) -> None:
    """Wait for the end of one retrieval; what its sub-operations lost is counted."""
    code, failed = None, 0
    for status, _ in answers:
        code, failed = status.get("Status"), int(status.get("NumberOfFailedSuboperations") or 0)
    if failed:
        store.tally.add("NOT_SENT", times=failed)
    store.tally.add("SERIES" if code == SUCCESS else "FAILED_SERIES")


@contextlib.contextmanager
def _associated(made: ApplicationEntity, peer: Peer, *, roles: Sequence[object], store: Store | None) -> Iterator[Association]:
    link = made.associate(
        peer.host,
        peer.port,
        ae_title=checked_title(peer.title),
        ext_neg=roles,  # type: ignore[arg-type]
        evt_handlers=store.handlers() if store else [],  # type: ignore[arg-type]
        tls_args=None if peer.tls is None else (context(peer.tls, serving=False), peer.host),
    )
    if not link.is_established:
        raise PullFailed("The PACS does not let us in.", action="Check its address, both AE titles, and TLS; does it know us?")
    try:
        yield link
    finally:
        link.release()
