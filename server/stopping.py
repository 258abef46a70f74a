"""A run that is told to stop: a mark in its folder, after which nothing is asked of a hospital any more."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import files, locks
from common.wire import Sealed
from server.exchange import Carrier
from server.journal import Journal, Life, how_ended

POLL_S: Final = 0.1
ROUND_S: Final = 12.0  # for the round under way, before Flower is told to end the process
HOW: Final = {"done": "Done, before it could be stopped,", "failed": "Failed, before it could be stopped,"}
RESULT: Final = "hospitals closed the study; the result is made"  # the stage after which nobody is asked


def mark(folder: Path) -> Path:
    """Return the file that stops the run of this folder, for good, once it is there."""
    return folder / "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stoppable:
    """A carrier that raises KeyboardInterrupt in place of asking anything once the run's folder has the mark."""

    carrier: Carrier
    folder: Path

    def wave(
        self, envelopes: Mapping[str, Sealed], *, deadline_s: float, receive: Callable[[str, bytes], None]
    ) -> dict[str, str]:
        """Carry as `carrier` does; a wave that is under way when the mark comes ends as it would have."""
        self._go_on()
        return self.carrier.wave(envelopes, deadline_s=deadline_s, receive=receive)

    def present(self) -> frozenset[str]:
        """Return whom `carrier` reaches."""
        self._go_on()
        return self.carrier.present()

    def _go_on(self) -> None:
        if mark(self.folder).exists():
            raise KeyboardInterrupt


def go_on(journal: Journal, **facts: object) -> None:
    """Write down that a run goes on in another life; raises KeyboardInterrupt, and writes nothing, where it was stopped before.

    `serve` may have handed the run on just before it was stopped.
    """
    event = {"type": "resumed", "time": round(time.time(), 3), **facts}
    if not journal.write_if(event, lambda life: how_ended(life) != "stopped"):
        raise KeyboardInterrupt


def past_stopping(journal: Journal) -> None:
    """Write down that every hospital has answered for the last time: from here on the run ends with its result.

    Raises KeyboardInterrupt where the journal says already that the run was stopped.
    """
    if not journal.write_while_open({"type": "stage", "time": round(time.time(), 3), "stage": RESULT}):
        raise KeyboardInterrupt


def stop(folder: Path, *, lock: Path, end: Callable[[], None]) -> bool:
    """Stop a run: set the mark, give the round under way ROUND_S, call `end`, and see that the journal says how it ended.

    The mark alone is enough: whoever works on the run, now or later, asks nothing more. Stopping twice changes nothing.
    A run of which nothing is left but its result is waited for. Returns whether the run ended as stopped.
    """
    files.write(mark(folder), b"")
    journal = Journal(folder / "journal.jsonl")
    until = time.monotonic() + ROUND_S

    def has_result(life: Life) -> bool:
        return locks.held(lock) and any(event.get("stage") == RESULT for event in life)

    def may_end(life: Life) -> bool:
        return how_ended(life) is None and not has_result(life)

    while True:
        while locks.held(lock) and (time.monotonic() < until or has_result(journal.life())):
            time.sleep(POLL_S)
        end()
        written = journal.write_if({"type": "stopped", "time": round(time.time(), 3)}, may_end)
        if written or journal.ended():
            return how_ended(journal.life()) == "stopped"


def charged(folder: Path) -> dict[str, int]:
    """Return how many sums of ended rounds hospitals were charged for: `training`, `exact`, and `other`, with noise."""
    paid = [event for event in Journal(folder / "journal.jsonl").rounds().values() if event["uploaded"]]
    exact = sum(event["mechanism"]["name"] == "none" for event in paid)
    steps = sum(event["task"] == "train" for event in paid)
    return {"training": steps, "exact": exact, "other": len(paid) - steps - exact}


def told(folder: Path) -> str:
    """Return in a few sentences how a run that was told to stop ended, where, and what hospitals were charged."""
    journal = Journal(folder / "journal.jsonl")
    rounds, paid = journal.rounds(), charged(folder)
    announced = [event["announcement"]["round"] for event in journal.events() if event["type"] == "announced"]
    opened = sum(event["state"] == "opened" for event in rounds.values())
    ended = how_ended(journal.life())
    parts = [
        f"{HOW.get(ended or '', 'Stopped')} at round {max([0, *announced, *rounds])}: {_count(opened, 'round')} opened.",
        f"Charged at the hospitals: {_count(paid['training'], 'step')} of training, {_count(paid['exact'], 'exact sum')}"
        + (f", {_count(paid['other'], 'other sum')} with noise." if paid["other"] else "."),
    ]
    if under_way := sorted(set(announced) - set(rounds)):
        parts.append(f"Round {under_way[-1]} was under way: who had answered it was charged for it too.")
    if ended == "done":
        parts.append("Its result stands: see `motet-coordinator report`.")
    else:
        parts.append("It is not gone on with; `motet-coordinator run` begins a new one, which is charged anew.")
    return " ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
