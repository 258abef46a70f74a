"""What a run's journal says, as one State: who is there, what was opened, what it cost, and when it may end. No IO."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from common import mechanism, roster
from common.ledger import accounting
from common.mechanism import GaussianShare
from common.study import Study
from server import words
from server.exchange import said
from server.state import ENDED, Hospital, Link, Phase, Refusal, Round, State

RECENT: Final = 20  # rounds from which the pace is taken
GAPS_FEWEST: Final = 3  # before that many there is no estimate
STALLED: Final = 5  # times the slow pace without an event
POLL_S: Final = 5.0  # what a quick round may wait for polls and for people who look
REFUSALS_SHOWN: Final = 10
TEXT_MOST: Final = 400
UNACCOUNTABLE: Final = Decimal("Infinity")


def view(
    events: Iterable[Mapping[str, Any]],
    *,
    run: str,
    study: Study,
    hospitals: Sequence[str],
    curve: Sequence[Mapping[str, Any]] = (),
    now: float,
    lines_unreadable: int = 0,
    answered: Collection[str] = (),
    at_work: bool | None = None,
    served: bool | None = None,
) -> State:
    """Return the state that the journal's events add up to.

    `hospitals` are the roster's names, `curve` the result's list of step and auc once there is one; `answered` are those whose
    upload of the round under way is there, `at_work` and `served` tell whether processes run.
    An event of an unknown type changes nothing, a malformed one at most the count of unreadable lines; codes that are none
    become E-UNKNOWN and names that are none are left out, so that every text in the state is safe to show.
    A round that is told twice, as after a resumption, counts once.
    """
    told = _Told(present=dict.fromkeys(name for name in hospitals if roster.NAME.match(name)))
    told.unreadable = lines_unreadable
    for event in events:
        try:
            told.take(event)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            told.unreadable += 1
    rounds = tuple(told.rounds[number] for number in sorted(told.rounds))
    opened = [one for one in rounds if one.opened]
    steps_done = max((one.index for one in opened if one.task == "train"), default=0)
    spent = {name: _tally(told.uploads(name)) for name in told.present}
    delta = study.privacy.delta
    epsilons = {name: _epsilon(tally, delta=delta) for name, tally in spent.items()}
    silent = told.phase not in ENDED and told.updated is not None and now - told.updated > study.patience_s
    most = max(epsilons, key=lambda name: epsilons[name], default=None)
    return State(
        run=run,
        study=study.name,
        title=_printable(study.title),
        phase=told.phase,
        doing=told.now_doing(),
        failure=told.failure,
        started=told.started,
        updated=told.updated,
        now=now,
        hospitals=tuple(told.hospital(name, epsilon=epsilons[name]) for name in sorted(told.present)),
        rounds=rounds,
        rounds_opened=len(opened),
        rounds_void=len(rounds) - len(opened),
        steps_done=steps_done,
        steps=study.training.steps,
        seconds_per_round=statistics.median(one.seconds for one in opened[-RECENT:]) if opened else None,
        epsilon=max(epsilons.values(), default=Decimal(0)),
        epsilon_at_end=None
        if most is None or told.phase in ENDED
        else _at_end(spent[most], _training(told.last_training), left=study.training.steps - steps_done, delta=delta),
        delta=delta,
        curve=_curve(curve),
        refusals=tuple(reversed(told.refusals[-REFUSALS_SHOWN:])),
        codes={name: dict(counts) for name, counts in sorted(told.codes.items())},
        left_s=None if silent else _left(told, rounds, study=study, steps_done=steps_done, now=now),
        silent=silent,
        resumed=told.resumed,
        lines_unreadable=told.unreadable,
        waited=told.waited(answered, stream=study.carrier == "stream"),
        asked=told.asked_at if told.under_way else told.updated,
        at_work=at_work,
        served=served,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """A round that was announced."""

    number: int
    task: str
    index: int
    hospitals: tuple[str, ...]


@dataclass(slots=True)
class _Told:
    """What the events said so far."""

    present: dict[str, None]
    phase: Phase = Phase.WAITING
    doing: str = "waiting for the coordinator's first event"
    failure: str | None = None
    started: float | None = None
    updated: float | None = None
    resumed: int = 0
    unreadable: int = 0
    rounds: dict[int, Round] = field(default_factory=dict)
    gave: dict[int, tuple[tuple[str, ...], str]] = field(default_factory=dict)  # round -> who uploaded, mechanism as JSON
    exact: set[int] = field(default_factory=set)  # rounds without noise
    last_training: str | None = None  # its mechanism as JSON
    gaps: list[float] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    codes: dict[str, Counter[str]] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    coded: dict[str, tuple[float, str]] = field(default_factory=dict)
    links: dict[str, tuple[float, Link]] = field(default_factory=dict)
    asked: Announced | None = None  # the round that was announced last
    asked_at: float | None = None
    _resuming: bool = False
    _after_round: bool = False

    @property
    def under_way(self) -> bool:
        """Return whether the round that was announced last has not ended."""
        return self.asked is not None and self.asked.number not in self.rounds

    def now_doing(self) -> str:
        """Return what happens now, or happened last."""
        if self.phase in ENDED or self.asked is None:
            return self.doing
        here = f"round {self.asked.number} ({words.step(self.asked.task, self.asked.index)})"
        if self._resuming:
            return f"resuming: {self.doing}" + (f"; {here} was under way" if self.under_way else "")
        return f"{here} is under way" if self.under_way and self.phase is Phase.ROUNDS else self.doing

    def waited(self, answered: Collection[str], *, stream: bool) -> tuple[str, ...]:
        """Return who was asked and has not answered; before the first round, over the lane, who is not connected."""
        if self.phase in ENDED or self.phase is Phase.CLOSING:
            return ()
        if self.asked is not None and self.under_way:
            return tuple(sorted(set(self.asked.hospitals) - set(answered)))
        if self.asked is None and stream:
            return tuple(name for name in sorted(self.present) if self.links.get(name, (0.0, None))[1] is not Link.UP)
        return ()

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event in; raises KeyError, TypeError or ValueError on a malformed one, which then changes little."""
        kind, time = event["type"], _time(event.get("time", self.updated))
        match kind:
            case "start" | "resumed":
                self.started = self.started or time
                self.resumed += kind == "resumed"
                self.phase, self.failure = Phase.SET_UP, None
                self.doing = "the coordinator started" if kind == "start" else "the coordinator resumed the run"
                self._resuming = kind == "resumed"
            case "stage":
                self._stage(_printable(event["stage"]))
            case "round":
                self._round(event, time)
            case "missing":
                self._codes(event["codes"], time, step=_printable(event.get("step", "set-up")))
            case "invited":
                self.seen |= dict.fromkeys(self._names(event["hospitals"]), time)
            case "link":
                self._link(event, time)
            case "announced":
                self._announced(event["announcement"], time)
                return  # the pace is taken from rounds that ended
            case "done" | "stopped" | "failed":
                self.phase, self.doing = Phase(kind), kind
                if kind == "failed":
                    self.failure = f"{said(event.get('code'))}: {_printable(event.get('what', ''))}"
            case _:
                return
        self._after_round = kind == "round"
        self.updated = time

    def uploads(self, name: str) -> Counter[str]:
        """Return how often this hospital gave something under each mechanism."""
        return Counter(mech for names, mech in self.gave.values() if name in names)

    def hospital(self, name: str, *, epsilon: Decimal) -> Hospital:
        """Return one hospital's line."""
        rounds = {number for number, (names, _) in self.gave.items() if name in names}
        coded, code = self.coded.get(name, (None, None))
        linked, link = self.links.get(name, (0.0, Link.UNKNOWN))
        seen = self.seen.get(name)
        return Hospital(
            name=name,
            link=link,
            linked=linked or None,
            seen=seen,
            code=code,
            coded=coded,
            away=(link in {Link.LOST, Link.AWAY} and linked >= (seen or 0.0)) or (coded is not None and coded >= (seen or 0.0)),
            epsilon=epsilon,
            releases_private=len(rounds - self.exact),
            releases_exact=len(rounds & self.exact),
            rounds_missed=sum(name in one.codes for one in self.rounds.values()),
        )

    def _stage(self, doing: str) -> None:
        """Take what happens between rounds."""
        self.doing = doing
        if "close" in doing:
            self.phase = Phase.CLOSING
        elif self.phase is not Phase.ROUNDS:
            self.phase = Phase.SET_UP

    def _link(self, event: Mapping[str, Any], time: float) -> None:
        (name,) = self._names([event["hospital"]])
        self.links[name] = (time, Link(event["state"]))
        if self.links[name][1] is Link.UP:
            self.seen[name] = time

    def _announced(self, plain: Mapping[str, Any], time: float) -> None:
        number, index, task = int(plain["round"]), int(plain["index"]), _printable(plain["task"])
        self.asked = Announced(number=number, task=task, index=index, hospitals=self._names(plain["hospitals"]))
        self.asked_at = time

    def _round(self, event: Mapping[str, Any], time: float) -> None:
        number, index, seconds = int(event["round"]), int(event["index"]), float(event["seconds"])
        if number < 1 or index < 0 or not math.isfinite(seconds) or event["state"] not in {"opened", "void"}:
            raise ValueError("not a round")
        task, opened = _printable(event["task"]), event["state"] == "opened"
        mech = json.dumps(event["mechanism"], sort_keys=True)
        uploaded, asked = self._names(event["uploaded"]), self._names(event["hospitals"])
        codes = {name: said(code) for name, code in event["missing"].items() if name == "" or roster.NAME.match(name)}
        known = number in self.rounds
        self.rounds[number] = Round(
            number=number, task=task, index=index, opened=opened, seconds=seconds, hospitals=len(asked), codes=codes
        )
        self.gave[number] = (uploaded, mech)
        if event["mechanism"]["name"] == "none":
            self.exact.add(number)
        self._resuming = False
        if self.phase not in ENDED:  # a run that was stopped may still end the round that was under way
            self.phase = Phase.ROUNDS
            self.doing = f"round {number} ({words.step(task, index)}) {'opened' if opened else 'is void'}"
        if task == "train":
            self.last_training = mech
        if opened and not known:
            gap = time - self.updated if self._after_round and self.updated is not None else seconds
            self.gaps.append(max(gap, seconds, 0.0))
        self.seen |= dict.fromkeys(uploaded, time)
        self._codes({name: code for name, code in codes.items() if not known}, time, step=f"round {number}")

    def _codes(self, codes: Mapping[str, Any], time: float, *, step: str) -> None:
        for name, given in sorted(codes.items()):
            if name and not self._names([name]):
                continue
            code = said(given)
            self.refusals.append(Refusal(time=time, hospital=name, code=code, step=step))
            self.codes.setdefault(name, Counter())[code] += 1
            if name:
                self.coded[name] = (time, code)

    def _names(self, given: Iterable[Any]) -> tuple[str, ...]:
        names = tuple(name for name in given if isinstance(name, str) and roster.NAME.match(name))
        self.present |= dict.fromkeys(names)
        return names


def _left(told: _Told, rounds: Sequence[Round], *, study: Study, steps_done: int, now: float) -> tuple[float, float] | None:
    """Return the seconds until the end at the quick and at the slow quarter of the recent pace, or None.

    Steps that are left count more where rounds were void; the evaluation and the close count as a round each, and the exact
    statistics too as long as none was opened. A run that stands still has no estimate.
    """
    recent = told.gaps[-RECENT:]
    if told.phase in ENDED or len(recent) < GAPS_FEWEST or told.updated is None:
        return None
    tasks = {one.task for one in rounds if one.opened}
    training = [one for one in rounds if one.task == "train"]
    opened = sum(one.opened for one in training)
    waves = (study.training.steps - steps_done) * (len(training) / opened if opened else 1.0)
    waves += ("evaluate" not in tasks) + (told.phase is not Phase.CLOSING) + (not tasks - {"train", "evaluate"})
    quick, _, slow = statistics.quantiles(recent, n=4, method="inclusive")
    since = max(0.0, now - told.updated)
    if since > STALLED * slow + POLL_S:  # the pace of before says nothing about this
        return None
    return max(0.0, waves * quick - since), max(0.0, waves * slow - since)


def _tally(uploads: Mapping[str, int]) -> accounting.Tally | None:
    """Return the noisy releases, or None where one of them cannot be accounted for."""
    tally = accounting.Tally()
    try:
        for mech, times in uploads.items():
            released = mechanism.from_entry(json.loads(mech))
            if isinstance(released, GaussianShare):
                tally.add(released, times=times)
    except ValueError:
        return None
    return tally


def _epsilon(tally: accounting.Tally | None, *, delta: Decimal) -> Decimal:
    return UNACCOUNTABLE if tally is None else accounting.round_up(tally.epsilon_rdp(delta=delta))


def _at_end(tally: accounting.Tally | None, last: GaussianShare | None, *, left: int, delta: Decimal) -> Decimal | None:
    if tally is None or last is None:
        return None
    total = tally.copy()
    if left > 0:
        total.add(last, times=left)
    return _epsilon(total, delta=delta)


def _training(mech: str | None) -> GaussianShare | None:
    if mech is None:
        return None
    try:
        released = mechanism.from_entry(json.loads(mech))
    except ValueError:
        return None
    return released if isinstance(released, GaussianShare) else None


def _curve(points: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    """Return the points that have a number."""
    return tuple(
        (int(point["step"]), float(point["auc"]))
        for point in points
        if isinstance(point.get("auc"), float) and math.isfinite(point["auc"]) and isinstance(point.get("step"), int)
    )


def _time(value: Any) -> float:  # noqa: ANN401
    time = float(value)
    if not 0 <= time < 1e11:
        raise ValueError("not a time")
    return time


def _printable(text: Any) -> str:  # noqa: ANN401
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:TEXT_MOST])
