"""A running study on a terminal: what happens now, how much is left, and an honest estimate of when it ends."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from common.errors import HospitalMissing
from common.study import Study
from server.journal import Journal

POLL_S = 0.3
SILENCE_S = 30.0  # after so long without an event, ask whether the run is still alive
ASKS = 2  # no, twice in a row: `serve` takes a while to go on with a run that was killed
BESIDE_TRAINING = 5  # two waves of set-up, the Gram, the evaluation, the close
FIRST_GUESS_S = 9.0  # a wave of Flower messages on a small machine, until one was measured


def follow(journal: Journal, *, study: Study, alive: Callable[[], bool], console: Console) -> None:
    """Show the run until its journal says that it is done; raises HospitalMissing with the reason when it failed."""
    total = study.training.steps + BESIDE_TRAINING
    with Progress(
        TextColumn("{task.description}", justify="left"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f}/{task.total:.0f} waves"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    ) as progress:
        shown = progress.add_task("waiting for the hospitals", total=total, left="")
        seen, times, asked, silent = 0, [time.monotonic()], 0.0, 0
        while True:
            events = list(journal.events())
            for event in events[seen:]:
                times.append(time.monotonic())
                if _show(progress, shown, event):
                    return
            seen, silent = len(events), 0 if len(events) > seen else silent
            _estimate(progress, shown, times)
            if time.monotonic() - max(times[-1], asked) > SILENCE_S:
                asked = time.monotonic()
                silent = 0 if alive() else silent + 1
            if silent >= ASKS and list(journal.events()) == events:
                raise HospitalMissing("The run ended without a result.", action="Read superlink.log and the journal.")
            time.sleep(POLL_S)


def _show(progress: Progress, shown: TaskID, event: dict[str, Any]) -> bool:
    kind = event["type"]
    if kind == "failed":
        raise HospitalMissing(f"The run failed: {event['what']}", action="See the journal for each hospital's code.")
    if kind == "missing":
        progress.console.print(f"[yellow]not there:[/] {_codes(event['codes'])}")
    if kind == "stage":
        progress.update(shown, description=str(event["stage"]), advance=1)
    if kind == "round":
        what = f"{event['task']}" + (f" step {event['index']}" if event["task"] == "train" else "")
        if event["state"] == "opened":
            progress.update(shown, description=f"round {event['round']}: {what}", advance=1)
        else:
            progress.console.print(f"[yellow]round {event['round']} ({what}) is void:[/] {_codes(event['missing'])}")
    return bool(kind == "done")


def _codes(codes: dict[str, str]) -> str:
    return ", ".join(f"{name or 'round'} {code}" for name, code in sorted(codes.items()))


def _estimate(progress: Progress, shown: TaskID, times: list[float]) -> None:
    task = progress.tasks[0]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[1:]) if later - earlier > POLL_S]
    per_wave = statistics.median(gaps) if gaps else FIRST_GUESS_S
    left_s = max(0.0, (task.total or 0) - task.completed) * per_wave - (time.monotonic() - times[-1])
    minutes, seconds = divmod(round(max(left_s, 0.0)), 60)
    progress.update(shown, left=f"about {minutes}:{seconds:02d} left")
