"""A running study on a terminal: what happens now, who is waited for, and an honest estimate of when it ends."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from common.errors import HospitalMissing
from server import words
from server.glance import Glance
from server.state import Phase, State

POLL_S = 0.5
SILENCE_S = 30.0  # after so long without an event, ask whether the run is still alive
ASKS = 2  # no, twice in a row: `serve` takes a while to go on with a run that was killed
AWAY_S = 2.0  # a process that works on the run is missed after that
BESIDE_TRAINING = 5  # two waves of set-up, the Gram, the evaluation, the close
SAID_AGAIN_S = 30.0  # on no terminal, whose line is not drawn again


def follow(folder: Path, *, alive: Callable[[], bool], console: Console) -> None:
    """Show the run in `folder` until its journal says that it is done.

    Raises HospitalMissing with the reason when it failed, or when `alive` says no while `serve` runs; KeyboardInterrupt when it
    was stopped. A coordinator that is away is waited for: whoever starts `serve` brings the run back.
    """
    glanced = Glance(folder)
    with Progress(
        TextColumn("{task.description}", justify="left", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f}/{task.total:.0f} waves"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=console,
    ) as progress:
        shown = progress.add_task("starting", total=BESIDE_TRAINING, left="")
        seen, news, asked, silent = 0, time.monotonic(), 0.0, 0
        said, said_at = "", 0.0
        while True:
            state = glanced.state(now=time.time())
            for event in glanced.events[seen:]:
                _say(progress.console, event)
            if len(glanced.events) > seen:
                seen, news, silent = len(glanced.events), time.monotonic(), 0
            done, total = waves(state)
            line = doing(state)
            progress.update(shown, description=line, completed=done, total=total, left=left(state))
            waited = line if words.waiting(state) or _away(state) else ""
            if not console.is_terminal and waited and (not said or time.monotonic() - said_at > SAID_AGAIN_S):
                console.print(escape(waited))
                said_at = time.monotonic()
            said = waited
            if _ended(state, folder):
                return
            if time.monotonic() - max(news, asked) > SILENCE_S:
                asked = time.monotonic()
                silent = 0 if state.served is False or alive() else silent + 1
            if silent >= ASKS and len(glanced.events) == seen:
                glanced.state(now=time.time())
                if len(glanced.events) == seen:
                    raise HospitalMissing("The run ended without a result.", action="Read superlink.log and the journal.")
            time.sleep(POLL_S)


def doing(state: State) -> str:
    """Return in a line what happens now, and who is waited for."""
    if _away(state):
        return words.headline(state)
    waited = words.waiting(state)
    if state.phase is Phase.WAITING:
        return waited or "waiting for the hospitals"
    return f"{state.doing}, {waited}" if waited else state.doing


def waves(state: State) -> tuple[int, int]:
    """Return how many waves of messages are over, and of how many as far as is known."""
    over = state.rounds_opened + (state.phase is not Phase.WAITING) + (state.phase in {Phase.ROUNDS, Phase.CLOSING})
    total = max(state.steps + BESIDE_TRAINING, over + 1)
    return (total, total) if state.phase is Phase.DONE else (over, total)


def left(state: State) -> str:
    """Return when the run may end; empty where nothing can be said, as while somebody is waited for."""
    return "" if state.left_s is None or _away(state) or words.waiting(state) else f"about {words.end(state)} left"


def _away(state: State) -> bool:
    return state.at_work is False and not state.ended and state.now - (state.updated or state.now) > AWAY_S


def _ended(state: State, folder: Path) -> bool:
    if state.phase is Phase.FAILED:
        raise HospitalMissing(f"The run failed. {state.failure}", action=f"Its rounds are in {folder / 'journal.jsonl'}.")
    if state.phase is Phase.STOPPED:
        raise KeyboardInterrupt
    return state.phase is Phase.DONE


def _say(console: Console, event: Mapping[str, Any]) -> None:
    """Say for good what a line that is drawn again would lose: who did not answer, and that the coordinator came back."""
    kind = event.get("type")
    if kind == "missing":
        console.print(f"[yellow]not there:[/] {_codes(event.get('codes'))}")
    if kind == "resumed":
        console.print("The coordinator is back and resumes the run.")
    if kind == "round" and event.get("state") == "void":
        what = words.step(str(event.get("task")), event.get("index"))
        console.print(f"[yellow]round {event.get('round')} ({escape(what)}) is void:[/] {_codes(event.get('missing'))}")


def _codes(codes: object) -> str:
    known = codes if isinstance(codes, dict) else {}
    return escape(", ".join(f"{name or 'round'} {code}" for name, code in sorted(known.items())))
