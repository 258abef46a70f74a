"""The vault: one signed envelope in, one out. What carries them is neither trusted nor known here."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from client import (
    noisy,
    officers,
    pipeline,
    policy,
    refusals,
    replies,
    session,
    shelf,
    witness,
)
from client import pseudonym as pseudonyms
from client.config import Home, Site, approved_roster, approved_study, identity_key, ledger_key, pseudonym_key, read_site
from client.gate import Asked, Gate
from client.inside import Cohort
from client.ledger import Ledger
from client.mask import mask
from client.origin import ledger_origin
from client.session import Session
from client.witness import Memory
from common import announcement as announcements
from common import wire
from common.announcement import Announcement
from common.crypto import keys, masking
from common.errors import (
    BadEnvelope,
    BudgetExhausted,
    InternalError,
    MotetError,
    OutsidePolicy,
    ReservationConflict,
    RosterNotApproved,
    SetupMissing,
)
from common.ledger.receipt import Receipt
from common.mechanism import Exact
from common.roster import HEX_KEY, Roster
from common.study import Study
from common.wire import Envelope

AROUND_BYTES = 128  # of an envelope, around its head: what it begins with, and the signature

log = logging.getLogger("motet.vault")


@dataclass(slots=True)
class _Open:
    """What the vault keeps warm of one study."""

    study: Study
    cohort: Cohort


class Vault:
    """One hospital's vault. `answer` may be called from one thread at a time.

    Nothing leaves without an entry in the ledger, and nothing is sent that is not on disk and synced.
    """

    def __init__(self, home: Home, *, clock: Callable[[], int], progress: pipeline.Progress) -> None:
        """Open keys and ledger, and write down what site.toml allows.

        Raises ConfigError, RecordDamaged, or OutsidePolicy where a cap is higher than before without its signatures.
        """
        self.home, self.progress = home, progress
        self.key = identity_key(home)
        site = read_site(home)
        self.name = site.name
        self.ledger = Ledger.open(home.ledger, origin=ledger_origin(site.name), key=ledger_key(home), clock=clock)
        self._clock = clock
        self._shown: tuple[int, ...] = ()  # sizes of this ledger that the request under way shows
        try:
            self.memory = Memory.load(home.state)
            self.memory.check(self.ledger)
            self.ledger.record_policy(site.policy.snapshot(), signatures=officers.signatures(home))
            replies.clear(home.state, now=time.time(), last=self.ledger.last_run())
        except BaseException:
            self.ledger.close()
            raise
        self._warm: dict[str, _Open] = {}
        self._approved: tuple[tuple[bytes, bytes], Site, Roster] | None = None
        self._said: dict[str, str] = {}  # reservation -> what the coordinator said of its round
        self._unwritten: list[str] = []  # reservations of which that is not in the ledger yet

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def prepare(self, study_hash: str) -> Cohort:
        """Read, measure and keep the cohort of an approved study; raises DataError or StudyNotApproved."""
        return self._prepare(study_hash, read_site(self.home)).cohort

    def request_bytes_most(self) -> int:
        """Return how many bytes a request about the studies that are prepared here can have, by what they are."""
        blob = max((pipeline.blob_bytes_most(one.study) for one in list(self._warm.values())), default=0)
        return wire.HEAD_BYTES_MOST + AROUND_BYTES + min(wire.BLOB_BYTES_MOST, blob)

    def _prepare(self, study_hash: str, site: Site) -> _Open:
        if study_hash not in self._warm or study_hash not in site.policy.allowed_studies:
            study = approved_study(self.home, site, study_hash=study_hash)
            pseudonym = pseudonyms.under(pseudonym_key(self.home))
            cohort = shelf.cohort(self.home, site, study=study, pseudonym=pseudonym, progress=self.progress)
            policy.check_cohort(site.policy, patients=len(cohort.patients))
            self.ledger.record_study(study_hash, title=study.title)
            self._warm[study_hash] = _Open(study=study, cohort=cohort)
        opened = self._warm[study_hash]
        policy.check_cohort(site.policy, patients=len(opened.cohort.patients))  # site.toml as it is now
        return opened

    def settle(self) -> None:
        """Write down what the coordinator said of earlier rounds: a claim, which changes no charge.

        Done before the next answer at the latest, and after it the coordinator says it again: nobody needs to wait for it.
        """
        while self._unwritten:
            reservation = self._unwritten[0]
            with contextlib.suppress(ReservationConflict):  # a claim that contradicts an earlier one, or a crash
                (self.ledger.commit if self._said[reservation] == "opened" else self.ledger.void)(reservation)
            del self._unwritten[0]

    def answer(self, data: bytes) -> bytes:
        """Answer one envelope; a refusal is an envelope too, with a code and no text, and is in the ledger."""
        self.settle()
        site, roster = self._settings()
        self.ledger.record_policy(site.policy.snapshot(), signatures=officers.signatures(self.home))
        request = wire.open_envelope(
            data, key=roster.identity(roster.coordinator), sender=roster.coordinator, recipient=self.name
        )
        self._shown = ()
        answers = {"invite": self._invite, "keys": self._keys, "announce": self._announce, "close": self._close}
        try:
            if request.kind not in answers:
                raise BadEnvelope("This kind of envelope is not for a hospital.", action="Check the coordinator's version.")
            if request.kind != "close":  # which erases keys before it looks at anything
                self._shown = witness.claims(request.body.get("witnessed"), ledger=self.ledger)
            return answers[request.kind](request, data, site, roster)
        except MotetError as error:
            return self._refuse(request, error)
        except OSError as error:
            return self._refuse(request, InternalError("The vault's disk failed.", action="Look at the disk."), cause=error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            malformed = BadEnvelope("A request is malformed.", action="Check the coordinator's version.")
            return self._refuse(request, malformed, cause=error)
        except Exception as error:  # noqa: BLE001  (what nobody foresaw is written down too)
            failed = InternalError("The vault failed at a request.", action="Report it, with this log.")
            return self._refuse(request, failed, cause=error)

    def _settings(self) -> tuple[Site, Roster]:
        """Return site.toml and the approved roster as they are now; parsed again when a byte of them has changed."""
        try:
            seen = self.home.site_file.read_bytes(), (self.home.approved / "roster.json").read_bytes()
        except OSError:
            seen = None
        if seen is None or self._approved is None or self._approved[0] != seen:
            site = read_site(self.home)
            roster = approved_roster(self.home, site)
            self._approved = None if seen is None else (seen, site, roster)
            return site, roster
        return self._approved[1], self._approved[2]

    def _invite(self, request: Envelope, data: bytes, site: Site, roster: Roster) -> bytes:
        study_hash, roster_hash = request.body["study"], request.body["roster"]
        if roster_hash != roster.hash():
            raise RosterNotApproved("The run is over another roster.", action="Approve the new roster.")
        study = approved_study(self.home, site, study_hash=study_hash)
        policy.check_study(site.policy, study=study, roster=roster)
        self._prepare(study_hash, site)
        if session.exists(self.home.state, run=request.run):
            state = self._session(request.run, roster)
            if state.answered("invite", data):
                return self._sent(request.run, "invite")
            raise SetupMissing("Another run of this name was set up here.", action="Start a new run.")
        replies.clear(self.home.state, now=time.time(), last=self.ledger.last_run())  # a new run needs room
        setup = keys.SetupKey.generate()
        state = Session(run=request.run, study=study_hash, roster=roster_hash, setup_key=setup.private_bytes())
        reply = self._seal(request, "bundle", {"setup_key": setup.public_bytes().hex()})
        return self._keep(state.with_request("invite", data), "invite", reply)

    def _keys(self, request: Envelope, data: bytes, site: Site, roster: Roster) -> bytes:  # noqa: ARG002
        state = self._session(request.run, roster)
        if state.answered("keys", data):
            return self._sent(request.run, "keys")
        bundles = {
            name: bytes.fromhex(self._peer(text, roster=roster, name=name, kind="bundle", run=request.run).body["setup_key"])
            for name, text in request.body["bundles"].items()
        }
        state, sealed = state.with_bundles(bundles, me=self.name)
        reply = self._seal(request, "sealed", {"sealed": {peer: text.hex() for peer, text in sealed.items()}})
        return self._keep(state.with_request("keys", data), "keys", reply)

    def _announce(self, request: Envelope, data: bytes, site: Site, roster: Roster) -> bytes:
        state = self._session(request.run, roster)
        announced = announcements.parse(request.body["announcement"])
        if announced.run != request.run or announced.blob_sha256 != hashlib.sha256(request.blob).hexdigest():
            raise BadEnvelope("The announcement is not about this envelope.", action="Check the coordinator's version.")
        self._acknowledge(request, state)
        opened = self._prepare(state.study, site)
        study, cohort = opened.study, opened.cohort
        if state.answered(str(announced.round), data):
            return self._sent_again(announced, study, site)
        policy.check_study(site.policy, study=study, roster=roster)
        policy.check_round(site.policy, announcement=announced, study=study, roster=roster, me=self.name)
        gate, blob = Gate(folder=self.home.state, secret=pseudonym_key(self.home), ledger=self.ledger), request.blob
        seat = pipeline.seat(announced, study=study, me=self.name, shows=site.policy.site_aggregates)
        with refusals.computing():
            if announced.task in {"gram", "query"}:
                cohort = pipeline.complete_cases(cohort, study=study)
            if study.harmonises(task=announced.task, index=announced.index):
                blob, cohort = gate.harmonised(blob, announced=announced, study=study, cohort=cohort)
        if announced.dimension != pipeline.dimension(announced, blob=blob, study=study):
            raise OutsidePolicy("The vector's length is not the task's.", action="Check the coordinator's version.")
        if not state.keyed():
            state = state.with_sealed(self._inbox(request, roster), me=self.name)
            state.save(self.home.state)  # the ephemeral secrets are gone from disk, whatever follows
        if isinstance(announced.mechanism, Exact):
            asked = Asked(
                announced=announced,
                blob=blob,
                study=study,
                cohort=cohort,
                whole=opened.cohort,
                policy=site.policy,
                seat=seat,
                models=state.models,
                others=tuple((one.study, one.cohort) for name, one in self._warm.items() if name != state.study),
            )
            with refusals.computing():
                checked = gate.check(asked)
        else:
            state = noisy.count(state, announced, study=study)
            checked = None
        state, pair_keys = state.with_round(announced.round, hospitals=announced.hospitals, me=self.name, request=data)
        with refusals.computing():
            contribution = (checked and checked.contribution) or pipeline.contribute(
                announced,
                blob=blob,
                study=study,
                cohort=cohort,
                mechanism=announcements.charged(study, announced.mechanism, hospital=self.name),
                cell_min=site.policy.cell_min,
                seat=seat,
            )
        receipt = self._reserve(announced, study, site)  # a request that cannot be answered costs nothing
        ctx = masking.context(state.transcript, announcement=announced.bytes())
        seeds = session.seeds(pair_keys, ctx=ctx, me=self.name)
        vector = mask(contribution, receipt=receipt, me=self.name, seeds=seeds)
        body = {
            "round": announced.round,
            "context": ctx.hex(),
            "commitments": {peer: masking.commitment(text, ctx=ctx) for peer, text in seeds.items()},
        }
        reply = self._seal(request, "upload", body, blob=vector)
        if checked is not None:
            gate.save(checked)
        self._keep(state, str(announced.round), reply)
        self.ledger.release(receipt, sha256=wire.whole_hash(reply), size_bytes=len(reply))
        return reply

    def _inbox(self, request: Envelope, roster: Roster) -> dict[str, bytes]:
        return {
            name: bytes.fromhex(
                self._peer(text, roster=roster, name=name, kind="sealed", run=request.run).body["sealed"][self.name]
            )
            for name, text in request.body["inbox"].items()
        }

    def _session(self, run: str, roster: Roster) -> Session:
        """Return the run's state; refuse one of another roster, or one that the ledger knows to be older than it was."""
        state = session.load(self.home.state, run=run)
        if state.roster != roster.hash():
            raise RosterNotApproved("The run was set up over another roster.", action="Start a new run.")
        answered = {int(label) for label in state.requests if label.isdigit()}
        left, reserved = (self.ledger.rounds(run, left=flag) for flag in (True, False))
        if max(left, default=0) > state.last_round or not answered <= reserved:
            raise SetupMissing("The run's state and the ledger do not belong together.", action="Start a new run.")
        return state

    def _close(self, request: Envelope, data: bytes, site: Site, roster: Roster) -> bytes:  # noqa: ARG002
        state = session.load(self.home.state, run=request.run)
        state.erased().save(self.home.state)  # first: nothing that follows may keep the keys alive
        self._acknowledge(request, state)
        self.settle()
        self._shown = witness.claims(request.body.get("witnessed"), ledger=self.ledger)
        body: dict[str, object] = {"checkpoint": self.ledger.checkpoint().decode()}
        if "passed_on" in request.body:
            body["cosigned"] = self._cosign(request.body["passed_on"], roster)
        else:
            body["held"] = dict(self.memory.others)  # a coordinator that was restored has forgotten what it passed on
        return self._seal(request, "closed", body)

    def _cosign(self, links: object, roster: Roster) -> dict[str, str]:
        """Cosign the other ledgers that grew, and remember what was seen of them and who saw this one."""
        self.memory, lines = self.memory.cosign(
            links, me=self.name, ledger=self.ledger, roster=roster, key=self.key, now=self._clock(), evidence=self.home.state
        )
        self.memory.save(self.home.state)
        return lines

    def _acknowledge(self, request: Envelope, state: Session) -> None:
        """Take what the coordinator says of earlier rounds, for `settle`."""
        for number, outcome in request.body["outcomes"].items():
            if number in state.requests and number.isdigit():
                reservation, said = f"{state.run}/{number}/{self.name}", "opened" if outcome == "opened" else "void"
                if self._said.get(reservation) != said:
                    self._said[reservation] = said
                    self._unwritten.append(reservation)

    def _reserve(self, announced: Announcement, study: Study, site: Site) -> Receipt:
        return self.ledger.reserve(
            f"{announced.run}/{announced.round}/{self.name}",
            study=announced.study,
            purpose=study.purpose,
            mechanism=announcements.charged(study, announced.mechanism, hospital=self.name),
            round_number=announced.round,
            roster=announced.hospitals,
            epsilon_cap=site.policy.epsilon_cap,
            delta_cap=site.policy.delta_cap,
            delta=noisy.delta(announced, study=study),
        )

    def _sent_again(self, announced: Announcement, study: Study, site: Site) -> bytes:
        reply = self._sent(announced.run, str(announced.round))
        receipt = self._reserve(announced, study, site)
        self.ledger.release(receipt, sha256=wire.whole_hash(reply), size_bytes=len(reply))
        return reply

    def _refuse(self, request: Envelope, error: MotetError, *, cause: BaseException | None = None) -> bytes:
        number = _number(request.body.get("announcement"))
        study_hash = request.body.get("study")
        if not isinstance(error, BudgetExhausted):  # the ledger wrote that one itself
            self.ledger.refuse(
                code=error.code,
                study=study_hash if isinstance(study_hash, str) and HEX_KEY.match(study_hash) else None,
                round_number=number,
            )
        said = {"code": error.code, "round": number, "why": error}
        log.warning("refused", extra=said, exc_info=cause or error.__cause__ or error)
        return self._seal(request, "refusal", {"code": refusals.outside(request, error)})

    def _seal(self, request: Envelope, kind: str, body: Mapping[str, object], *, blob: bytes = b"") -> bytes:
        told = dict(body) if kind == "refusal" else {**body, "ledger": self.ledger.told(self._shown).plain()}
        reply = Envelope(kind=kind, sender=self.name, recipient=request.sender, run=request.run, body=told, blob=blob)
        return wire.seal(reply, key=self.key)

    def _peer(self, text: str, *, roster: Roster, name: str, kind: str, run: str) -> Envelope:
        envelope = wire.open_envelope(bytes.fromhex(text), key=roster.identity(name), sender=name, recipient=roster.coordinator)
        if envelope.kind != kind or envelope.run != run or name not in roster.names:
            raise BadEnvelope("A peer's envelope is from another step or run.", action="Start a new run.")
        return envelope

    def _keep(self, state: Session, label: str, reply: bytes) -> bytes:
        state.save_with(self.home.state, reply=reply, label=label)
        return reply

    def _sent(self, run: str, label: str) -> bytes:
        try:
            return session.reply_path(self.home.state, run=run, label=label).read_bytes()
        except OSError:
            raise SetupMissing("An earlier reply is lost.", action="Start a new run.") from None


def _number(announced: object) -> int | None:
    number = announced.get("round") if isinstance(announced, dict) else None
    return number if isinstance(number, int) and 0 <= number <= announcements.ROUNDS_MOST else None
