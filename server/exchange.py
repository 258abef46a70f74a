"""One run's envelopes to hospitals and back: sealed, carried, asked again where an answer may still come, and kept."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import wire
from common.errors import BadEnvelope, HospitalMissing, RecordDamaged
from common.roster import Roster
from common.study import Study
from common.wire import Envelope, Sealed
from server import intake
from server.intake import Begin, Intake
from server.journal import Journal
from server.witnesses import Witnesses

POLL_S: Final = 0.05
ATTEMPTS: Final = 3  # the identical request, sent again to a hospital that is late
ANSWERS_LATER: Final = frozenset({"E-LATE", "E-OFFLINE", "E-VAULT", "E-RELAY"})  # worth asking again for the same
CODE: Final = re.compile(r"E-[A-Z-]{1,40}")

log = logging.getLogger("motet.coordinator")


class Carrier(Protocol):
    """Carries envelopes to hospitals and back; neither trusted nor known to what it carries."""

    def wave(
        self, envelopes: Mapping[str, Sealed], *, deadline_s: float, receive: Callable[[str, bytes], None]
    ) -> dict[str, str]:
        """Send one envelope to each hospital and hand their replies to `receive` as they come, each one's bytes in order.

        Return a code for each hospital that failed, the code of the error where `receive` raised one; who is in it not may
        have answered, or may be late. Ends when every hospital answered or failed, or after `deadline_s`.
        """

    def present(self) -> frozenset[str]:
        """Return the hospitals that can be reached now, as far as the carrier knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Who talks to whom about what in one run, by which carrier; replies are kept, signed, below `folder`."""

    run: str
    study: Study
    roster: Roster
    key: Ed25519PrivateKey
    carrier: Carrier
    journal: Journal
    folder: Path
    witnesses: Witnesses | None = None

    def ask(self, sent: str, bodies: Mapping[str, dict[str, Any]], *, kind: str, part: str) -> dict[str, Envelope]:
        """Ask hospitals something that has one answer; return the good replies, kept in `part`, of which some may be old.

        The request is identical every time: who answered it before answers with the same bytes.
        """
        place = self.place(part)
        requests = {name: self.seal(sent, name, body) for name, body in bodies.items()}
        replies = {name: kept for name in requests if (kept := self._kept_or_none(place / f"{name}.envelope", kind=kind))}
        for _ in range(ATTEMPTS):
            waiting = {name: request for name, request in requests.items() if name not in replies}
            if not waiting:
                break
            answered, codes = self.wave(waiting, kind=kind, part=part)
            replies |= answered
            if codes:
                self.say("missing", step=sent, codes=codes)
            if not set(codes.values()) & ANSWERS_LATER:
                break
            self.wait_for(codes)
        return replies

    def wait_for(self, hospitals: Iterable[str]) -> None:
        """Wait until these hospitals can be reached, patience_s at most: a vault that restarts is not given up at once."""
        end = time.monotonic() + self.study.patience_s
        while set(hospitals) - self.carrier.present() and time.monotonic() < end:
            time.sleep(POLL_S)

    def wave(
        self, requests: Mapping[str, Sealed], *, kind: str, part: str, begin: Begin = intake.keep_only, late: bool = False
    ) -> tuple[dict[str, Envelope], dict[str, str]]:
        """Carry requests once; return the good replies without their blobs, and a code for every other hospital.

        A reply that contradicts what its hospital's ledger was seen to be is none. `late`: see Witnesses.take.
        """
        taken = Intake(requests, place=self.place(part), kind=kind, run=self.run, roster=self.roster, begin=begin)
        try:
            failed = self.carrier.wave(requests, deadline_s=self.study.patience_s, receive=taken.receive)
            good, codes = taken.close(failed)
        except BaseException:
            taken.abandon()
            raise
        for name in list(good) if self.witnesses else ():
            if code := self._contradicted(name, good[name], late=late):
                (self.place(part) / f"{name}.envelope").unlink()
                del good[name]
                codes[name] = code
        return good, {name: said(code) for name, code in codes.items()}

    def _contradicted(self, name: str, reply: Envelope, *, late: bool) -> str | None:
        try:
            if self.witnesses:
                self.witnesses.take(name, reply.body.get("ledger"), late=late)
        except (BadEnvelope, RecordDamaged) as error:
            log.warning("%s", error)
            return error.code
        return None

    def seen(self, hospitals: Iterable[str]) -> dict[str, str]:
        """Return the newest checkpoint that was seen of each hospital's ledger."""
        return self.witnesses.seen(hospitals) if self.witnesses else {}

    def kept(self, path: Path, *, kind: str, begin: Begin = intake.keep_only) -> Envelope:
        """Return a reply that was kept earlier, checked as when it came; a crash may have come between keeping and checking."""
        reply = intake.read(path, kind=kind, run=self.run, roster=self.roster, begin=begin)
        if self.witnesses:
            self.witnesses.take(path.stem, reply.body.get("ledger"), late=True)
        return reply

    def _kept_or_none(self, path: Path, *, kind: str) -> Envelope | None:
        try:
            return self.kept(path, kind=kind) if path.exists() else None
        except (BadEnvelope, RecordDamaged):  # as a power cut leaves it: asked for again
            path.unlink()
            return None

    def seal(
        self, kind: str, recipient: str, body: dict[str, Any], *, blob: bytes = b"", blob_sha256: str | None = None
    ) -> Sealed:
        """Sign an envelope of this run; give the blob's SHA-256 where it is known."""
        envelope = Envelope(kind=kind, sender=self.roster.coordinator, recipient=recipient, run=self.run, body=body, blob=blob)
        return wire.seal_parts(envelope, key=self.key, blob_sha256=blob_sha256 or hashlib.sha256(blob).hexdigest())

    @property
    def shown(self) -> dict[str, dict[str, list[str]]]:
        """Return what set-up shows of the hospitals' ledgers, by hospital: the same in every life of the coordinator."""
        starts = [event.get("witnessed", {}) for event in self.journal.events() if event["type"] == "start"]
        return {name: {"witnessed": [text]} for name, text in (starts[0] if starts else {}).items()}

    def place(self, part: str) -> Path:
        """Return the folder of one part of the run, made where it is missing."""
        place = self.folder / part
        place.mkdir(mode=0o700, exist_ok=True)
        return place

    def enough(self, hospitals: Mapping[str, object] | tuple[str, ...]) -> None:
        """Raise HospitalMissing when fewer hospitals take part than the study and its assumed collusion need."""
        if len(hospitals) < self.fewest:
            raise HospitalMissing(
                f"{len(hospitals)} hospitals take part, the study needs {self.fewest}.",
                action=f"Missing: {', '.join(sorted(set(self.roster.names) - set(hospitals)))}. Start their vaults and relays, "
                "or mend what their codes say.",
            )

    @property
    def fewest(self) -> int:
        """Return how many hospitals a round needs."""
        return fewest(self.study)

    def say(self, kind: str, *, synced: bool = True, **facts: object) -> dict[str, Any]:
        """Write an event to the journal, and return it; see Journal.write."""
        event = {"type": kind, "time": round(time.time(), 3), **facts}
        self.journal.write(event, synced=synced)
        return event


def fewest(study: Study) -> int:
    """Return how many hospitals a round of this study needs."""
    private = (study.privacy, study.statistics.privacy, study.evaluation.privacy)
    return max(study.hospitals_min, *(part.colluders + 2 for part in private if part is not None))


def said(code: object) -> str:
    """Return a code that came from outside, or E-UNKNOWN when it is none."""
    return code if isinstance(code, str) and CODE.fullmatch(code) else "E-UNKNOWN"
