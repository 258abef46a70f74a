"""motet-hospital attack: attack the installed trainer on synthetic patients."""

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.audit.attack.cli import AsJson, tell

CANARIES_LEAST: Final = 200
CANARIES_MOST: Final = 10_000
RUNS: Final[Sequence[tuple[str, Decimal, Decimal, int]]] = (  # name, noise multiplier, sampling rate, steps
    ("everybody", Decimal(4), Decimal(1), 30),
    ("sampled", Decimal(1), Decimal("0.05"), 200),
)
REMARK: Final = (
    "The lower bounds of epsilon are only consistent with the claim: a build with half the noise may stay below it, too. "
    "Errors of the noise are found by its size, here and in motet-audit attack conformance."
)
HELP: Final = "Attacks on the installed trainer; no patient, no scan and no ledger is touched."
HELP_ONE_RUN = """Train on synthetic canaries and guess from the opened sums who was in; half a minute.

Checks a training step's clipping, unit and batches, then the guesses against what the claimed noise allows.
Exit codes: 0 every check holds; 6 the trainer does not do what it claims; 64 usage.
"""
app = typer.Typer(add_completion=False, no_args_is_help=True, help=HELP)


@app.callback()
def _root() -> None:
    pass


@app.command("one-run", help=HELP_ONE_RUN)
def one_run(
    *,
    canaries: Annotated[
        int,
        typer.Option(min=CANARIES_LEAST, max=CANARIES_MOST, help="Canaries; more narrow the AUROC. Time and memory grow."),
    ] = 4_000,
    as_json: AsJson = False,
) -> None:
    """Attack the trainer in one run of each kind."""
    from client.attack import canaries as runs  # noqa: PLC0415  (torch is slow to import; --help needs none)
    from client.attack import steps as trainer  # noqa: PLC0415
    from common.audit.attack import one_run as judging  # noqa: PLC0415

    columns = (TextColumn("attacking"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=trainer.STEPS + sum(steps for *_, steps in RUNS))
        found = list(trainer.checks(steps=trainer.STEPS, progress=lambda: bar.advance(task)))
        guesses = {}
        for name, noise, rate, steps in RUNS:
            seen = runs.run(noise=noise, rate=rate, steps=steps, canaries=canaries, progress=lambda: bar.advance(task))
            guess = judging.guess(seen)
            found += judging.checks(seen, guess, name=name)
            guesses[name] = {**asdict(guess), "plan": {**asdict(seen.plan), "delta": str(seen.plan.delta)}}
    facts = {"attack": "one-run", "canaries": canaries, "guesses": guesses, "remark": REMARK}
    tell(found, as_json=as_json, facts=facts, remark=REMARK)
