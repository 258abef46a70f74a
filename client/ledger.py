"""The hospital's ledger: what was charged, what left and what was refused; append-only, synced before anything is sent."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.leaves import Leaves
from common import analyses, canonical
from common.crypto import keys
from common.errors import (
    BudgetExhausted,
    LedgerRewritten,
    OutsidePolicy,
    RecordDamaged,
    ReservationConflict,
    StudyNotApproved,
)
from common.ledger import accounting, events, merkle, note, officers, post_quantum, witness
from common.ledger.events import Event, Kind
from common.ledger.receipt import Receipt
from common.ledger.state import STEPS, Reservation, Stage, State
from common.ledger.witness import Told
from common.mechanism import GaussianShare, Mechanism

GRAM = "gram"  # the statistic of a study's exact Gram
PAGE = 1000  # entries read at a time
ENDED = frozenset({Stage.VOID, Stage.ABORTED, Stage.FORFEITED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the data set has given so far."""

    epsilon_rdp: Decimal  # rounded up
    releases_private: int  # charged, whether or not they left
    releases_exact: int  # left
    exact_counted: int  # against exact_releases_max: what tells nothing new counts once
    refusals: int


class Ledger:
    """One SQLite file per vault (WAL, synchronous FULL); a context manager; may be shared by threads and processes.

    The entries are the only truth: every transaction first replays what others appended. What raises changes nothing,
    except that a refused reservation is itself recorded. Any method raises RecordUnwritable when the file cannot be
    written (full or read-only disk), and RecordDamaged when the file is not what was written.
    """

    def __init__(self, leaves: Leaves, *, origin: str, key: Ed25519PrivateKey, clock: Callable[[], int], forfeit: bool) -> None:
        """Use `create`, `open` or `look`."""
        self._leaves, self._origin, self._key, self._clock = leaves, origin, key, clock
        self._state, self._tree = State(), merkle.Tree()
        self._pending: list[Event] = []
        self.verify_key: str = note.key_of(origin, key=key).vkey
        try:
            self._open(forfeit=forfeit)
        except BaseException:
            leaves.close()
            raise

    @classmethod
    def create(cls, path: Path, *, origin: str, key: Ed25519PrivateKey, clock: Callable[[], int]) -> "Ledger":
        """Write a new ledger with its genesis entry; raises AlreadyExists, and touches nothing, where one is."""
        fields = {"origin": origin, "key": note.key_of(origin, key=key).vkey}
        genesis = Event(seq=0, kind=Kind.GENESIS, ts=int(clock()), fields=fields)
        Leaves.create(path, first=events.encode(genesis))
        return cls.open(path, origin=origin, key=key, clock=clock)

    @classmethod
    def open(cls, path: Path, *, origin: str, key: Ed25519PrivateKey, clock: Callable[[], int]) -> "Ledger":
        """Open for the vault: check every hash, replay every entry, forfeit what was left reserved (it stays charged)."""
        return cls(Leaves(path, writable=True), origin=origin, key=key, clock=clock, forfeit=True)

    @classmethod
    def look(cls, path: Path, *, origin: str, key: Ed25519PrivateKey, clock: Callable[[], int]) -> "Ledger":
        """Open for reading beside a running vault: check and replay, forfeit nothing; whatever would write raises."""
        return cls(Leaves(path, writable=False), origin=origin, key=key, clock=clock, forfeit=False)

    def record_policy(self, policy: Mapping[str, object], *, signatures: Mapping[str, str] | None = None) -> None:
        """Write the policy down when it differs from the last one; raises OutsidePolicy unless it is JSON below 64 KiB.

        It is raised, too, where a cap rises without the signatures that the last policy asks for (common/ledger/officers.py).
        """
        with self._transaction():
            try:
                plain = canonical.decode(canonical.encode(dict(policy)))
            except (TypeError, ValueError):
                raise OutsidePolicy("The policy cannot be written as JSON.", action="Mend site.toml.") from None
            if plain != self._state.policy:
                before, entry = self._state.policy, self._state.policy_entry
                officers.check(before, plain, origin=self._origin, entry=entry, signatures=signatures or {})
                held = officers.held(before, plain, origin=self._origin, entry=entry, signatures=signatures or {})
                self._append(Kind.POLICY, policy=plain, salt=_salt(), **({"signatures": held} if held else {}))

    def record_study(self, study_hash: str, *, title: str) -> None:
        """Register a study before its first release; a second time does nothing."""
        with self._transaction():
            if study_hash not in self._state.studies:
                self._append(Kind.PLAN, study=study_hash, title=title)

    def reserve(
        self,
        reservation: str,
        *,
        study: str,
        purpose: str,
        mechanism: Mechanism,
        round_number: int,
        roster: Sequence[str],
        epsilon_cap: Decimal,
        delta_cap: Decimal,
        delta: Decimal,
    ) -> Receipt:
        """Charge a release before anything of it is masked, written or sent; the full cost counts from here on.

        The filter is Renyi accounting over every private release of this ledger and this one, at `delta`. Exact statistics cost
        nothing and are listed. Same id and same content: the same receipt. Raises BudgetExhausted (recorded) when the cap on
        epsilon or delta would be passed, ReservationConflict when the id was used for something else or has ended,
        StudyNotApproved when `record_study` was not called, OutsidePolicy on a malformed value.
        Source: Feldman, Zrnic 2021 (privacy filters).
        """
        over: str | None = None
        with self._transaction():
            known = self._state.reservations.get(reservation)
            if known is not None:
                wanted = (study, purpose, mechanism, round_number, tuple(roster), delta)
                held = (known.study, known.purpose, known.mechanism, known.round_number, known.roster, known.delta)
                if wanted != held or known.stage in ENDED - {Stage.VOID}:
                    raise _conflict("This reservation was made for something else, or has ended.")
                return _receipt(known)
            if study not in self._state.studies:
                raise StudyNotApproved("The study is not registered in the ledger.", action="Approve the study first.")
            _check(mechanism, roster=roster, epsilon_cap=epsilon_cap, delta_cap=delta_cap, delta=delta)
            over = self._over(mechanism, epsilon_cap=epsilon_cap, delta_cap=delta_cap, delta=delta)
            if over is None:
                self._append(
                    Kind.RESERVE,
                    id=reservation,
                    study=study,
                    purpose=purpose,
                    mech=mechanism.entry(),
                    round=round_number,
                    roster=list(roster),
                    epsilon_cap=epsilon_cap,
                    delta_cap=delta_cap,
                    delta=delta,
                )
            else:
                self._append(Kind.REFUSE, code=BudgetExhausted.code, study=study, round=round_number, salt=_salt())
        if over is not None:
            raise BudgetExhausted(over, action="Only new patients bring new budget; or two officers raise the cap.")
        return _receipt(self._state.reservations[reservation])

    def release(self, receipt: Receipt, *, sha256: str, size_bytes: int) -> None:
        """Write down the SHA-256 of the exact bytes that are about to leave; synced to disk when this returns.

        The same bytes again: nothing happens. Other bytes, or a receipt that is not this ledger's: ReservationConflict.
        """
        with self._transaction():
            reserved = self._find(receipt.reservation)
            if _receipt(reserved) != receipt:
                raise _conflict("The receipt is not one of this ledger.")
            if reserved.left and reserved.sha256 == sha256:
                return
            if reserved.stage != Stage.RESERVED:
                raise _conflict("Other bytes were released on this receipt, or its round has ended.")
            self._append(Kind.RELEASE, id=reserved.id, sha256=sha256, bytes=size_bytes)

    def commit(self, reservation: str) -> None:
        """Write down that the sum opened; from released only, a second time does nothing."""
        self._move(reservation, Kind.COMMIT)

    def void(self, reservation: str) -> None:
        """Write down that the round was void; the charge stays. Nothing to do where nothing was released."""
        self._move(reservation, Kind.VOID, enough=ENDED)

    def refuse(self, *, code: str, study: str | None, round_number: int | None) -> None:
        """Write a refusal down; what is not a study hash or a round number is left out, so that no foreign text enters."""
        with self._transaction():
            known = study if study is not None and events.HASH.match(study) else None
            whole = type(round_number) is int and 0 <= round_number < canonical.LARGEST_INTEGER
            self._append(Kind.REFUSE, code=code, study=known, round=round_number if whole else None, salt=_salt())

    def checkpoint(self, *, ml_dsa: bool = False) -> bytes:
        """Return the signed note over the ledger's name, size and root, as it stands now; with `ml_dsa`, a second line on it.

        That line is for auditors whose roster names its key. Rounds do without: 3 kB a reply, and a witness signs with Ed25519.
        """
        with self._reading():
            size, root = self._tree.size, self._tree.root()
        signed = self._signed(size, root)
        if not ml_dsa:
            return signed
        body = note.Checkpoint(origin=self._origin, size=size, root=root)
        return signed + post_quantum.line(body, key=self._key, now=int(self._clock())).encode()

    def told(self, sizes: Iterable[int]) -> Told:
        """Return the checkpoint as it stands now, with proofs that it grew out of its first `sizes` entries each."""
        with self._reading():
            size, root = self._tree.size, self._tree.root()
            proofs = {old: self._tree.consistency_proof(old, size=size) for old in sizes}
        return Told(checkpoint=self._signed(size, root), proofs=proofs)

    def check_covers(self, signed: bytes) -> int:
        """Return the size of a checkpoint that this ledger signed; raises LedgerRewritten unless it holds those entries still.

        Raises RecordDamaged when it was not signed by this ledger's key.
        """
        seen = witness.checkpoint(signed, key=note.key_of(self._origin, key=self._key))
        with self._reading():
            if seen.size > self._tree.size or self._tree.root(size=seen.size) != seen.root:
                raise LedgerRewritten(
                    f"The ledger has {self._tree.size} entries; it has signed another one, of {seen.size}.",
                    action="Stop, and restore the newest ledger: an older one forgets what was spent.",
                )
        return seen.size

    def _signed(self, size: int, root: bytes) -> bytes:
        body = note.Checkpoint(origin=self._origin, size=size, root=root)
        return note.sign(body.text(), name=self._origin, key=self._key)

    def policy(self) -> tuple[Mapping[str, Any], int]:
        """Return the last policy that was written down, empty where none was, and the number of its entry."""
        with self._reading():
            return dict(self._state.policy or {}), self._state.policy_entry

    def spent(self, *, delta: Decimal) -> Spent:
        """Return what was spent so far, epsilon at `delta` by Renyi accounting; raises ValueError unless 0 < delta < 1."""
        with self._reading():
            return Spent(
                epsilon_rdp=accounting.round_up(self._state.tally.epsilon_rdp(delta=delta)),
                releases_private=len(self._state.private()),
                releases_exact=len(self._state.exact()),
                exact_counted=_exact_counted(self._state)[0],
                refusals=self._state.refusals,
            )

    def exact_counted(self) -> tuple[int, frozenset[tuple[str, str]]]:
        """Return how many exact sums count against the hospital's cap, and which (study, statistic) have counted for good.

        The sums of one analysis of a study count as one, in whatever runs they left: the study fixes how many there may be.
        So does its Gram, which the vault answers again only over the identical rows and roster, where it tells nothing new.
        Any other sum counts each time that it left.
        """
        with self._reading():
            return _exact_counted(self._state)

    def entries(self, *, start: int = 0) -> Iterator[bytes]:
        """Yield the entries in order, as they are hashed, from number `start` on."""
        while page := self._leaves.since(start, most=PAGE):
            yield from page
            start += len(page)
            if len(page) < PAGE:
                return

    def studies(self) -> tuple[str, ...]:
        """Return the hashes of all registered studies, approved still or not: what a bundle must hold."""
        with self._reading():
            return tuple(self._state.studies)

    def rounds(self, run: str, *, left: bool) -> frozenset[int]:
        """Return the rounds of `run` that were reserved here; with `left`, only those in which something left."""
        with self._reading():
            return frozenset(item.round_number for item in self._state.of_run(run) if item.left or not left)

    def last_run(self) -> str | None:
        """Return the run that was charged last; None where none was."""
        with self._reading():
            return self._state.last_run

    def sums(self, run: str, *, statistic: str) -> frozenset[int]:
        """Return the rounds of `run` in which exact sums of this name were reserved and not given back."""
        with self._reading():
            return self._state.sums(run, statistic=statistic)

    def size(self) -> int:
        """Return the number of entries."""
        with self._reading():
            return self._state.size

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._leaves.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _over(self, mechanism: Mechanism, *, epsilon_cap: Decimal, delta_cap: Decimal, delta: Decimal) -> str | None:
        if not isinstance(mechanism, GaussianShare):
            return None
        if delta > delta_cap:
            return "The study's delta is above the hospital's cap."
        tally = self._state.tally.copy()
        tally.add(mechanism)
        epsilon = accounting.round_up(tally.epsilon_rdp(delta=delta))
        return f"Epsilon would be {epsilon}, the cap is {epsilon_cap}." if epsilon > epsilon_cap else None

    def _find(self, reservation: str) -> Reservation:
        known = self._state.reservations.get(reservation)
        if known is None:
            raise _conflict("There is no such reservation.")
        return known

    def _move(self, reservation: str, kind: Kind, *, enough: frozenset[Stage] = frozenset(), **fields: str) -> None:
        before, after = STEPS[kind]
        with self._transaction():
            stage = self._find(reservation).stage
            if stage == after or stage in enough:
                return
            if stage != before:
                raise _conflict(f"A reservation that is {stage.value} cannot be {after.value}.")
            self._append(kind, id=reservation, **fields)

    def _append(self, kind: Kind, **fields: Any) -> None:  # noqa: ANN401
        event = Event(seq=self._state.size + len(self._pending), kind=kind, ts=int(self._clock()), fields=fields)
        try:
            data = events.encode(event)
        except ValueError as error:
            raise OutsidePolicy(f"An entry cannot be written: {error}.", action="Check what was asked for.") from None
        self._leaves.append(event.seq, data=data)
        self._pending.append(event)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One atomic step: take the write lock, catch up, let the caller append, sync, and only then believe it."""
        with self._leaves.reading():
            try:
                with self._leaves.transaction():
                    self._catch_up()
                    yield
            finally:
                self._pending.clear()
            self._catch_up()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._leaves.reading():
            self._catch_up()
            yield

    def _catch_up(self) -> None:
        for data in self.entries(start=self._state.size):
            self._state.apply(events.decode(data))
            self._tree.append(merkle.leaf_hash(data))

    def _open(self, *, forfeit: bool) -> None:
        self._catch_up()
        if (self._state.origin, self._state.key) != (self._origin, self.verify_key):
            raise RecordDamaged("The ledger is another hospital's or another key's.", action="Restore its own key.")
        if forfeit:
            with self._transaction():
                for reserved in self._state.open_reservations():
                    self._append(Kind.FORFEIT, id=reserved.id)


def _check(mechanism: Mechanism, *, roster: Sequence[str], epsilon_cap: Decimal, delta_cap: Decimal, delta: Decimal) -> None:
    decimals = (epsilon_cap, delta_cap, delta)
    if not all(value.is_finite() and value > 0 for value in decimals) or not delta < 1:
        raise OutsidePolicy("A cap or delta is out of range.", action="Check site.toml and the study.")
    if isinstance(mechanism, GaussianShare):
        if mechanism.hospitals != len(roster):
            raise OutsidePolicy("The noise is shared among other hospitals than the round names.", action="Announce it again.")
        try:
            accounting.effective_noise_multiplier(mechanism)
        except ValueError as error:
            raise OutsidePolicy(f"The noise cannot be accounted for: {error}.", action="Check the study.") from None


def _exact_counted(state: State) -> tuple[int, frozenset[tuple[str, str]]]:
    left = [(item.study, getattr(item.mechanism, "statistic", "")) for item in state.exact()]
    once = frozenset(item for item in left if item[1] == GRAM or item[1].startswith(analyses.PREFIX))
    return len(once) + sum(item not in once for item in left), once


def _receipt(reserved: Reservation) -> Receipt:
    return Receipt(reservation=reserved.id, study=reserved.study, mechanism=reserved.mechanism, sequence=reserved.sequence)


def _salt() -> str:
    return keys.fresh_secret()[:16].hex()


def _conflict(what: str) -> ReservationConflict:
    return ReservationConflict(what, action="Let the coordinator announce a new round.")
