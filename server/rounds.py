"""One run's rounds: pair keys once, then announce, collect, open or void. Knows nothing of what the sums mean."""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import announcement as announcements
from common import files, wire
from common.announcement import Announcement
from common.crypto import keys, ring
from common.crypto.adding import add, check_upload
from common.errors import BadEnvelope, ContextMismatch, HospitalMissing, MotetError, ReservationConflict
from common.roster import Roster
from common.study import Study
from common.wire import Envelope
from server.journal import Journal

EXACT_ATTEMPTS: Final = 3  # the identical request, sent again to a hospital that is late
CODE: Final = re.compile(r"E-[A-Z-]{1,40}")
ANSWERS_LATER: Final = frozenset({"E-LATE", "E-OFFLINE", "E-VAULT", "E-RELAY"})  # worth asking again for the same
POLL_S: Final = 0.5
AWAY_ROUNDS: Final = 2  # rounds without a hospital that missed one, before it is asked again


class Carrier(Protocol):
    """Carries envelopes to hospitals and back; neither trusted nor known to what it carries."""

    def wave(self, envelopes: Mapping[str, bytes], *, deadline_s: float) -> dict[str, bytes | str]:
        """Send one envelope to each; return replies by hospital, a code where one failed, nothing where one is late."""

    def present(self) -> frozenset[str]:
        """Return the hospitals that can be reached now, as far as the carrier knows."""


@dataclass(slots=True)
class _Away:
    """Why a hospital is left out, and for how many more rounds; None for the rest of the run."""

    code: str
    rounds: int | None


@dataclass(slots=True, kw_only=True)
class Rounds:
    """The coordinator's side of the secure sum in one run. `outcomes` tells hospitals which rounds opened."""

    run: str
    study: Study
    roster: Roster
    key: Ed25519PrivateKey
    carrier: Carrier
    journal: Journal
    folder: Path  # uploads are kept here, signed, so that anybody can add them again
    number: int = 0
    transcript: bytes = b""
    members: tuple[str, ...] = ()
    outcomes: dict[str, str] = field(default_factory=dict)
    _sealed: dict[str, bytes] = field(default_factory=dict)
    _keyed: set[str] = field(default_factory=set)
    _away: dict[str, _Away] = field(default_factory=dict)

    def set_up(self) -> None:
        """Agree on pair keys with every hospital that answers; raises HospitalMissing when too few do."""
        self._say("stage", stage="set-up 1 of 2: hospitals open the study")
        body = {"study": self.study.hash(), "roster": self.roster.hash()}
        answered = self._ask("invite", dict.fromkeys(self.roster.names, body), kind="bundle")
        setup_keys = {name: key for name, data in answered.items() if (key := self._setup_key(name, data))}
        bundles = {name: answered[name] for name in setup_keys}
        self._store("setup", bundles)
        self._enough(bundles)
        self.transcript = keys.transcript(setup_keys, roster_hash=self.roster.hash(), run=self.run)
        self._say("stage", stage="set-up 2 of 2: pair keys")
        shown = {"bundles": {name: data.hex() for name, data in bundles.items()}}
        sealed = self._ask("keys", dict.fromkeys(bundles, shown), kind="sealed")
        self._sealed = {name: data for name, data in sealed.items() if self._seals_for_all(data, set(bundles) - {name})}
        if set(self._sealed) != set(bundles):
            late = sorted(set(bundles) - set(self._sealed))
            raise HospitalMissing(f"Set-up did not finish: {', '.join(late)}.", action="Start the study again.")
        self.members = tuple(sorted(self._sealed))

    def _setup_key(self, name: str, data: bytes) -> bytes | None:
        try:
            public = bytes.fromhex(_text(self._peek(data), "setup_key"))
            keys.public_key(public)
        except (ValueError, BadEnvelope):
            self._say("missing", step="invite", codes={name: BadEnvelope.code})
            return None
        return public

    def _seals_for_all(self, data: bytes, peers: set[str]) -> bool:
        sealed = self._peek(data).body.get("sealed")
        return isinstance(sealed, dict) and set(sealed) == peers

    def secure_sum(
        self, *, task: str, index: int, dimension: int, blob: bytes, attempts: int
    ) -> tuple[Announcement, ring.Words]:
        """Return one opened sum; a round that a hospital misses is void and the next is announced without it.

        An exact statistic is not announced over another roster: its identical request is sent again to those who are late.
        Raises HospitalMissing after `attempts` void rounds, or when too few hospitals are left.
        """
        for _ in range(attempts):
            announced = self._announcement(task, index, dimension, blob)
            started = time.monotonic()
            uploads, codes = self._collect(announced, blob, exact=task != "train")
            try:
                opened: ring.Words | None = add(uploads, announcement=announced, transcript=self.transcript)
            except (HospitalMissing, ContextMismatch, BadEnvelope) as error:
                opened, codes = None, codes or {"": error.code}
            self._finish(announced, opened=opened, codes=codes, uploads=uploads, seconds=time.monotonic() - started)
            if opened is not None:
                return announced, opened
            if task != "train":
                break
        lost = ", ".join(f"{name}: {away.code}" for name, away in sorted(self._away.items())) or "contexts differ"
        raise HospitalMissing(
            f"The round could not be opened ({lost}).", action="Mend these hospitals and run the study again."
        )

    def close(self) -> dict[str, str]:
        """Tell the hospitals that the run is over and let them erase its keys; return their ledgers' checkpoints."""
        self._say("stage", stage="hospitals close the study")
        replies = self._ask("close", {name: {"outcomes": dict(self.outcomes)} for name in self.members}, kind="closed")
        return {name: _text(self._peek(text), "checkpoint") for name, text in replies.items()}

    def _announcement(self, task: str, index: int, dimension: int, blob: bytes) -> Announcement:
        present = self._present(exact=task != "train")
        self.number += 1
        return Announcement(
            run=self.run,
            study=self.study.hash(),
            roster=self.roster.hash(),
            round=self.number,
            hospitals=present,
            task=task,
            index=index,
            dimension=dimension,
            blob_sha256=hashlib.sha256(blob).hexdigest(),
            mechanism=announcements.mechanism_for(self.study, task=task, hospitals=len(present), dimension=dimension),
        )

    def _present(self, *, exact: bool) -> tuple[str, ...]:
        """Return who is announced: reachable, and not left out; waits for patience_s while there are too few.

        A hospital that missed a round is left out for a while, unless the round cannot do without it: an exact statistic is
        answered over one roster only.
        """
        end = time.monotonic() + self.study.patience_s
        while True:
            reachable = self.carrier.present()
            able = [name for name in self.members if name in reachable]
            present = tuple(name for name in able if name not in self._away)
            if exact or len(present) < self._fewest:
                present = tuple(name for name in able if name not in self._away or self._away[name].rounds is not None)
            if len(present) >= self._fewest or time.monotonic() > end:
                self._enough(present)
                return present
            time.sleep(POLL_S)

    def _collect(self, announced: Announcement, blob: bytes, *, exact: bool) -> tuple[dict[str, Envelope], dict[str, str]]:
        requests = {name: self._request(announced, name, blob) for name in announced.hospitals}
        uploads: dict[str, Envelope] = {}
        codes: dict[str, str] = {}
        place = self.folder / f"{announced.round:06d}"
        place.mkdir(mode=0o700, exist_ok=True)
        files.write(place / "announcement.json", announced.bytes())
        for _ in range(EXACT_ATTEMPTS if exact else 1):
            waiting = {name: request for name, request in requests.items() if name not in uploads}
            replies, codes = self._replies(waiting, kind="upload")
            for name, data in replies.items():
                upload = self._peek(data)
                try:
                    check_upload(upload, name=name, announcement=announced, transcript=self.transcript)
                    self._store(f"{announced.round:06d}", {name: data})
                    uploads[name] = upload
                except (ContextMismatch, BadEnvelope) as error:  # this hospital's doing: the round is void because of it
                    codes[name] = error.code
            if not set(codes.values()) & ANSWERS_LATER:
                break
        return uploads, codes

    def _request(self, announced: Announcement, name: str, blob: bytes) -> bytes:
        inbox = {} if name in self._keyed else {peer: text.hex() for peer, text in self._sealed.items() if peer != name}
        body = {"announcement": announced.plain(), "inbox": inbox, "outcomes": dict(self.outcomes)}
        return self._seal("announce", name, body, blob)

    def _finish(
        self,
        announced: Announcement,
        *,
        opened: ring.Words | None,
        codes: dict[str, str],
        uploads: dict[str, Envelope],
        seconds: float,
    ) -> None:
        self._keyed |= set(uploads)
        self.outcomes[str(announced.round)] = "void" if opened is None else "opened"
        for name in [name for name, away in self._away.items() if away.rounds is not None]:
            left = (self._away[name].rounds or 0) - 1
            if left > 0:
                self._away[name].rounds = left
            else:
                del self._away[name]
        for name, code in codes.items():
            if name:
                self._away[name] = _Away(
                    code=code, rounds=None if code.startswith("E-REFUSED") and code != ReservationConflict.code else AWAY_ROUNDS
                )
        self._say(
            "round",
            round=announced.round,
            task=announced.task,
            index=announced.index,
            mechanism=announced.mechanism.entry(),
            hospitals=list(announced.hospitals),
            uploaded=sorted(uploads),
            state="void" if opened is None else "opened",
            sum_sha256=None if opened is None else hashlib.sha256(ring.to_bytes(opened)).hexdigest(),
            missing=codes,
            seconds=round(seconds, 3),
        )

    def _store(self, part: str, envelopes: Mapping[str, bytes]) -> None:
        """Keep signed envelopes, so that anybody can add them again (`motet-audit replay`)."""
        place = self.folder / part
        place.mkdir(mode=0o700, exist_ok=True)
        for name, data in envelopes.items():
            files.write(place / f"{name}.envelope", data)

    def _ask(self, kind_sent: str, bodies: Mapping[str, dict[str, Any]], *, kind: str) -> dict[str, bytes]:
        requests = {name: self._seal(kind_sent, name, body) for name, body in bodies.items()}
        replies: dict[str, bytes] = {}
        for _ in range(EXACT_ATTEMPTS):  # the identical request: who answered it before answers with the same bytes
            waiting = {name: request for name, request in requests.items() if name not in replies}
            answered, codes = self._replies(waiting, kind=kind)
            replies |= answered
            if codes:
                self._say("missing", step=kind_sent, codes=codes)
            if not set(codes.values()) & ANSWERS_LATER:
                break
        return replies

    def _replies(self, requests: Mapping[str, bytes], *, kind: str) -> tuple[dict[str, bytes], dict[str, str]]:
        carried = self.carrier.wave(requests, deadline_s=self.study.patience_s)
        answers = {name: carried[name] for name in requests if name in carried}  # a carrier is not trusted
        good: dict[str, bytes] = {}
        codes = {name: "E-LATE" for name in requests if name not in answers}
        for name, answer in answers.items():
            if isinstance(answer, str):
                codes[name] = _code(answer)
                continue
            try:
                reply = wire.open_envelope(
                    answer, key=self.roster.identity(name), sender=name, recipient=self.roster.coordinator
                )
                if reply.run != self.run or reply.kind not in {kind, "refusal"}:
                    raise BadEnvelope("A reply is from another run or step.", action="Start the study again.")
            except MotetError as error:
                codes[name] = error.code
                continue
            if reply.kind == "refusal":
                codes[name] = _code(reply.body.get("code"))
            else:
                good[name] = answer
        return good, codes

    def _seal(self, kind: str, recipient: str, body: dict[str, Any], blob: bytes = b"") -> bytes:
        envelope = Envelope(kind=kind, sender=self.roster.coordinator, recipient=recipient, run=self.run, body=body, blob=blob)
        return wire.seal(envelope, key=self.key)

    @staticmethod
    def _peek(data: bytes) -> Envelope:
        return wire.peek(data)  # its signature was checked when it came in

    @property
    def _fewest(self) -> int:
        return max(self.study.hospitals_min, self.study.privacy.colluders + 2)

    def _enough(self, hospitals: Mapping[str, object] | tuple[str, ...]) -> None:
        if len(hospitals) < self._fewest:
            raise HospitalMissing(
                f"{len(hospitals)} hospitals take part, the study needs {self._fewest}.",
                action="Start the vaults and relays that are missing; `motet-coordinator run` shows each one's code.",
            )

    def _say(self, kind: str, **facts: object) -> None:
        self.journal.write({"type": kind, "time": round(time.time(), 3), **facts})


def _code(said: object) -> str:
    return said if isinstance(said, str) and CODE.fullmatch(said) else "E-UNKNOWN"


def _text(envelope: Envelope, key: str) -> str:
    value = envelope.body.get(key)
    if not isinstance(value, str):
        raise BadEnvelope(f"A reply of {envelope.sender} lacks {key}.", action="Check the hospital's version.")
    return value
