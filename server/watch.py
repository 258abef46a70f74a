"""A run on a terminal, redrawn while it goes on: hospitals, rounds, epsilon, the curve and the last refusals."""

import time
from collections.abc import Callable

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server import words
from server.state import Phase, Round, State

EVERY_S = 1.0
ROUNDS_SHOWN = 60
REFUSALS_SHOWN = 5
BARS = "▁▂▃▄▅▆▇█"
STYLES = {Phase.DONE: "green", Phase.FAILED: "red", Phase.STOPPED: "yellow"}
LINKS = {"up": "green", "answers": "green", "away": "yellow", "lost": "red"}


def watch(look: Callable[[], State], *, console: Console, newest: bool, sleep: Callable[[float], None] = time.sleep) -> State:
    """Show what `look` returns until the run ends, and return its last state; on no terminal, show it once.

    Where `newest`, a run that had ended before is shown until the next one begins, which is then shown to its end.
    """
    state = first = look()
    if not console.is_terminal:
        console.print(drawn(state))
        return state
    waits = newest and state.ended
    if waits:
        console.print("This run has ended; the next one is shown when it begins. Ctrl-C ends this.")
    with Live(drawn(state), console=console, auto_refresh=False) as live:
        while not state.ended or (waits and state.run == first.run):
            sleep(EVERY_S)
            state = look()
            live.update(drawn(state), refresh=True)
    return state


def drawn(state: State) -> RenderableType:
    """Return the whole picture; every text is shown as it is, no markup in it is obeyed."""
    parts: list[RenderableType] = [
        Text(words.headline(state), style=STYLES.get(state.phase, "yellow" if state.silent else "")),
        _figures(state),
        ProgressBar(total=max(1, state.steps), completed=state.steps_done, width=48),
        _hospitals(state),
    ]
    if state.rounds:
        parts.append(_strip(state.rounds[-ROUNDS_SHOWN:]))
    if state.refusals:
        parts.append(_refusals(state))
    if state.lines_unreadable:
        parts.append(Text(f"{state.lines_unreadable} lines of the journal could not be read.", style="yellow"))
    return Panel(Group(*parts), title=Text(state.title or state.study), subtitle=Text(f"run {state.run}"), box=box.ROUNDED)


def _figures(state: State) -> Table:
    table = Table.grid(padding=(0, 2))
    then = "" if state.epsilon_at_end is None else f", {words.epsilon(state.epsilon_at_end)} after the last step"
    for name, value in (
        ("rounds", f"{state.rounds_opened} opened, {state.rounds_void} void, {words.seconds(state.seconds_per_round)} each"),
        ("training", f"step {state.steps_done} of {state.steps}"),
        ("epsilon", f"{words.epsilon(state.epsilon)} at delta {state.delta}{then}"),
        ("held-out AUC", f"{state.curve[-1][1]:.3f} at step {state.curve[-1][0]}" if state.curve else "known at the end"),
        ("ended" if state.ended else "ends in", words.end(state)),
    ):
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _hospitals(state: State) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("hospital", "link", "seen", "epsilon", "uploads", "missed", "last code"):
        table.add_column(title, justify="right" if title in {"epsilon", "uploads", "missed"} else "left", overflow="fold")
    for one in state.hospitals:
        link = words.link(one)
        table.add_row(
            Text(one.name),
            Text(link, style=LINKS.get(link, "dim")),
            Text(words.ago(one.seen, now=state.now)),
            Text(words.epsilon(one.epsilon)),
            Text(str(one.releases_private + one.releases_exact)),
            Text(str(one.rounds_missed)),
            Text(one.code or "", style="yellow" if one.away else "dim"),
        )
    return table


def _strip(rounds: tuple[Round, ...]) -> Text:
    """Return a bar per round, its height the seconds; a void round is a red cross."""
    most = max(one.seconds for one in rounds) or 1.0
    strip = Text(f"rounds {rounds[0].number} to {rounds[-1].number}  ", style="dim")
    for one in rounds:
        height = BARS[min(len(BARS) - 1, int(one.seconds / most * len(BARS)))]
        strip.append(height if one.opened else "\N{MULTIPLICATION SIGN}", style="green" if one.opened else "red")
    return strip


def _refusals(state: State) -> Table:
    table = Table.grid(padding=(0, 2))
    for one in state.refusals[:REFUSALS_SHOWN]:
        table.add_row(
            Text(words.ago(one.time, now=state.now), style="dim"),
            Text(one.hospital or "the round"),
            Text(one.code, style="yellow"),
            Text(one.step, style="dim"),
        )
    return table
