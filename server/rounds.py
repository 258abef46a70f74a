"""One run's rounds: announce, collect, open or void; and the same again from disk. Knows nothing of what the sums mean."""

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any, Final

from common import announcement as announcements
from common.announcement import Announcement
from common.crypto import ring
from common.crypto.adding import Adder
from common.errors import (
    BadEnvelope,
    ContextMismatch,
    HospitalMissing,
    LateUpload,
    MotetError,
    RecordDamaged,
    ReservationConflict,
)
from common.wire import Envelope, Sealed
from server import witnessing
from server.exchange import ANSWERS_LATER, ATTEMPTS, POLL_S, Exchange
from server.setup import SetUp

AWAY_ROUNDS: Final = 2  # rounds without a hospital that missed one, before it is asked again
AWAY_PART: Final = 1 / 8  # of patience_s, at least, when it misses that one too; doubled with every further one


@dataclass(slots=True)
class _Away:
    """Why a hospital is left out, and for how many more rounds, None for the rest of the run; and not before when."""

    code: str
    rounds: int | None
    until: float = 0.0


@dataclass(slots=True, kw_only=True)
class Rounds:
    """The coordinator's side of the secure sum in one run. `outcomes` tells hospitals which rounds opened.

    A coordinator that was killed makes its rounds again in the same order: those that its journal knows are read from disk, bit
    for bit; the one that was under way is announced with the same bytes, which costs no hospital a second charge.
    """

    exchange: Exchange
    keys: SetUp
    number: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)
    _past: dict[int, dict[str, Any]] = field(default_factory=dict)
    _announced: dict[int, dict[str, Any]] = field(default_factory=dict)
    _shown: dict[int, dict[str, str]] = field(default_factory=dict)  # checkpoints that an announcement shows their hospitals
    _keyed: set[str] = field(default_factory=set)
    _away: dict[str, _Away] = field(default_factory=dict)
    _misses: dict[str, int] = field(default_factory=dict)  # one after another

    def __post_init__(self) -> None:
        """Read the rounds of an earlier life."""
        self._past = self.exchange.journal.rounds()
        told = [event for event in self.exchange.journal.events() if event["type"] == "announced"]
        self._announced = {event["announcement"]["round"]: event["announcement"] for event in told}
        self._shown = {event["announcement"]["round"]: event.get("witnessed", {}) for event in told}

    @property
    def members(self) -> tuple[str, ...]:
        """Return the hospitals that have pair keys, sorted."""
        return self.keys.members

    def secure_sum(
        self, *, task: str, index: int, dimension: int, blob: bytes, attempts: int
    ) -> tuple[Announcement, ring.Words]:
        """Return one opened sum; a round that a hospital misses is void and the next is announced without it.

        An exact statistic is not announced over another roster: its identical request is sent again to those who are late. A
        noisy one is: every announcement has a fresh draw and a charge of its own.
        Raises HospitalMissing after `attempts` void rounds, or when too few hospitals are left.
        """
        exact = announcements.is_exact(self.exchange.study, task=task)
        for _ in range(attempts):
            announced = self._next(task, index, dimension, hashlib.sha256(blob).hexdigest())
            past = self._past.get(announced.round)
            if past is not None and not (exact and task != "query" and past["state"] == "void"):
                opened = self._opened_before(announced, past, blob)
            else:
                opened = self._live(announced, blob, exact=exact)
            if opened is not None:
                return announced, opened
            if exact:
                break
        lost = ", ".join(f"{name}: {away.code}" for name, away in sorted(self._away.items())) or "contexts differ"
        raise HospitalMissing(
            f"The round could not be opened ({lost}).", action="Mend these hospitals and run the study again."
        )

    def close(self) -> dict[str, str]:
        """Tell the hospitals that the run is over and let them erase its keys; return their ledgers' checkpoints."""
        self.exchange.say("stage", stage="hospitals close the study")
        replies = witnessing.close(self.exchange, self.members, outcomes=self.outcomes)
        checkpoints = {name: reply.body.get("checkpoint") for name, reply in replies.items()}
        if bad := {name: BadEnvelope.code for name, text in checkpoints.items() if not isinstance(text, str)}:
            self.exchange.say("missing", step="close", codes=bad)  # the result does not wait for it
        return {name: text for name, text in checkpoints.items() if isinstance(text, str)}

    def _next(self, task: str, index: int, dimension: int, blob_sha256: str) -> Announcement:
        """Return the next round's announcement: the journal's where there is one, else a new one over who is present.

        The journal's is on disk before anything is sent; announcement.json is a copy of it, for who adds the sums again.
        """
        self.number += 1
        known = self._announced.get(self.number)
        if known is not None:
            announced = _parse(known)
            self._copy(announced)
            if (announced.task, announced.index, announced.dimension, announced.blob_sha256) != (
                task,
                index,
                dimension,
                blob_sha256,
            ):
                raise RecordDamaged(
                    f"Round {self.number} on disk is another one than the study comes to.",
                    action="Continue with the version of Motet that began the run, or start a new one.",
                )
            return announced
        unseen = self.exchange.study.evaluation.unseen if task == "train" else ()
        hospitals = self._present(exact=announcements.is_exact(self.exchange.study, task=task), without=unseen)
        exchange = self.exchange
        announced = Announcement(
            run=exchange.run,
            study=exchange.study.hash(),
            roster=exchange.roster.hash(),
            round=self.number,
            hospitals=hospitals,
            task=task,
            index=index,
            dimension=dimension,
            blob_sha256=blob_sha256,
            mechanism=announcements.mechanism_for(
                exchange.study, task=task, hospitals=len(hospitals), dimension=dimension, index=index
            ),
        )
        self._shown[self.number] = exchange.seen(hospitals)
        exchange.say("announced", announcement=announced.plain(), witnessed=self._shown[self.number])
        self._copy(announced)
        return announced

    def _copy(self, announced: Announcement) -> None:
        path, data = self.exchange.place(f"{announced.round:06d}") / "announcement.json", announced.bytes()
        if not path.exists() or path.read_bytes() != data:  # new, or as a power cut leaves it
            path.write_bytes(data)

    def _present(self, *, exact: bool, without: tuple[str, ...]) -> tuple[str, ...]:
        """Return who is announced: reachable, and not in `without`, not left out; waits for patience_s while there are too few.

        A hospital that missed a round is left out for a while, unless the round cannot do without it: an exact statistic is
        answered over one roster only.
        """
        end = time.monotonic() + self.exchange.study.patience_s
        while True:
            reachable = self.exchange.carrier.present()
            able = [name for name in self.members if name in reachable and name not in without]
            present = tuple(name for name in able if name not in self._away)
            if exact or len(present) < self.exchange.fewest:
                present = tuple(name for name in able if name not in self._away or self._away[name].rounds is not None)
            if len(present) >= self.exchange.fewest or time.monotonic() > end:
                self.exchange.enough(present)
                return present
            time.sleep(POLL_S)

    def _live(self, announced: Announcement, blob: bytes, *, exact: bool) -> ring.Words | None:
        started = time.monotonic()
        requests = {name: self._request(announced, name, blob) for name in announced.hospitals}
        adder, heads = self._kept(announced)
        codes: dict[str, str] = {}
        for _ in range(ATTEMPTS if exact else 1):
            waiting = {name: request for name, request in requests.items() if name not in heads}
            if not waiting:
                break
            answered, codes = self.exchange.wave(waiting, kind="upload", part=f"{announced.round:06d}", begin=adder.begin)
            heads |= answered
            if not set(codes.values()) & ANSWERS_LATER:
                break
            if exact:
                self.exchange.wait_for(codes)
                adder, heads = self._kept(announced)  # half of a late vector may have been added: again, from what is whole
        try:
            opened: ring.Words | None = adder.total(heads)
        except (HospitalMissing, ContextMismatch, BadEnvelope) as error:
            named = error.hospitals if isinstance(error, ContextMismatch) else ()
            opened, codes = None, codes or dict.fromkeys(named or ("",), error.code)
        self._apply(
            self.exchange.say(
                "round",
                synced=False,  # it is with the next announcement, before anybody is told of it
                round=announced.round,
                task=announced.task,
                index=announced.index,
                mechanism=announced.mechanism.entry(),
                hospitals=list(announced.hospitals),
                uploaded=sorted(heads),
                state="void" if opened is None else "opened",
                sum_sha256=None if opened is None else hashlib.sha256(ring.to_bytes(opened)).hexdigest(),
                missing=codes,
                seconds=round(time.monotonic() - started, 3),
            )
        )
        return opened

    def _opened_before(self, announced: Announcement, past: dict[str, Any], blob: bytes) -> ring.Words | None:
        """Return the sum of a round of an earlier life, added again from the kept uploads; None when it was void.

        An upload that a power cut damaged is asked for again: the same request brings the same bytes, and costs no charge.
        """
        opened = None
        if past["state"] == "opened":
            adder, heads = self._kept(announced)
            lost = {name: self._request(announced, name, blob) for name in announced.hospitals if name not in heads}
            if lost:
                answered, _ = self.exchange.wave(
                    lost, kind="upload", part=f"{announced.round:06d}", begin=adder.begin, late=True
                )
                heads |= answered
            try:
                opened = adder.total(heads)
            except MotetError:
                opened = None
            if opened is None or hashlib.sha256(ring.to_bytes(opened)).hexdigest() != past["sum_sha256"]:
                raise RecordDamaged(
                    f"The kept uploads of round {announced.round} do not give its sum.", action="Restore the run's folder."
                )
        self._apply(past)
        return opened

    def _kept(self, announced: Announcement) -> tuple[Adder, dict[str, Envelope]]:
        """Add the round's uploads that are on disk; one that is damaged, as a power cut leaves it, is asked for again."""
        place = self.exchange.place(f"{announced.round:06d}")
        while True:
            adder = Adder(announcement=announced, transcript=self.keys.transcript)
            heads: dict[str, Envelope] = {}
            for path in sorted(place.glob("*.envelope")):
                try:
                    heads[path.stem] = self.exchange.kept(path, kind="upload", begin=adder.begin)
                except (BadEnvelope, ContextMismatch, LateUpload, RecordDamaged):
                    path.unlink()
                    break
            else:
                return adder, heads

    def _request(self, announced: Announcement, name: str, blob: bytes) -> Sealed:
        sealed = self.keys.sealed
        inbox = {} if name in self._keyed else {peer: text.hex() for peer, text in sealed.items() if peer != name}
        body: dict[str, Any] = {"announcement": announced.plain(), "inbox": inbox, "outcomes": dict(self.outcomes)}
        if shown := self._shown.get(announced.round, {}).get(name):
            body["witnessed"] = [shown]
        return self.exchange.seal("announce", name, body, blob=blob, blob_sha256=announced.blob_sha256)

    def _apply(self, event: dict[str, Any]) -> None:
        """Take the consequences of a round: who holds pair keys now, who is left out next, what hospitals are told of it."""
        self._keyed |= set(event["uploaded"])
        self.outcomes[str(event["round"])] = event["state"]
        for name in [name for name, away in self._away.items() if away.rounds is not None]:
            left = (self._away[name].rounds or 0) - 1
            if left > 0 or time.monotonic() < self._away[name].until:
                self._away[name].rounds = max(left, 1)
            else:
                del self._away[name]
        for name in event["uploaded"]:
            self._misses.pop(name, None)
        for name, code in event["missing"].items():
            if name:
                if event["task"] == "query" and code.startswith("E-REFUSED"):
                    continue  # its policy refuses this analysis, not the run
                for_good = code.startswith("E-REFUSED") and code != ReservationConflict.code
                self._misses[name] = misses = self._misses.get(name, 0) + 1
                patience_s = self.exchange.study.patience_s
                out_s = min(patience_s * AWAY_PART * 2 ** (misses - 2), patience_s) if misses > 1 else 0.0
                self._away[name] = _Away(code=code, rounds=None if for_good else AWAY_ROUNDS, until=time.monotonic() + out_s)


def _parse(plain: dict[str, Any]) -> Announcement:
    try:
        return announcements.parse(plain)
    except BadEnvelope:
        raise RecordDamaged(
            "An announcement in the journal is damaged.", action="Restore the run's folder, or start a new run."
        ) from None
