"""motet-hospital attack: attack the installed trainer on synthetic patients."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from common.audit.attack.cli import NOT_CONFORMING, OK, AsJson, tell

if TYPE_CHECKING:
    from common.audit.attack.check import Check

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
HELP_MEMBERSHIP: Final = """Guess who was in from the opened sums: members found at 1 % and 0.1 % false alarms, and the ceiling.

Exit codes: 0 no more are found than the claimed noise allows; 6 more are; 64 usage.
"""
REMARK_MEMBERSHIP: Final = (
    "The attacker knows every canary and the noise: no attack on a model that these sums made is stronger. "
    "Finding few is only consistent with the claim."
)
HELP_INVERSION: Final = """Read an image back from gradients of a fully connected layer: plain, clipped, summed, with noise.

Exit codes: 0 what leaves shows less than a blank guess; 6 it shows more; 64 usage.
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


@app.command("membership", help=HELP_MEMBERSHIP)
def membership(
    *,
    canaries: Annotated[
        int, typer.Option(min=CANARIES_LEAST, max=CANARIES_MOST, help="Canaries; at 0.1 % false alarms a thousand is few.")
    ] = 4_000,
    as_json: AsJson = False,
) -> None:
    """Find members by the likelihood ratio in one run of each kind."""
    from client.attack import canaries as runs  # noqa: PLC0415  (torch is slow to import; --help needs none)
    from common.audit.attack import membership as judging  # noqa: PLC0415

    found: list[Check] = []
    told = {}
    for name, noise, rate, steps in RUNS:
        seen = runs.run(noise=noise, rate=rate, steps=steps, canaries=canaries)
        members = judging.attack(seen)
        found += judging.checks(seen, members, name=name)
        told[name] = [asdict(one) for one in members]
    tell(found, as_json=as_json, facts={"attack": "membership", "canaries": canaries, "found": told}, remark=REMARK_MEMBERSHIP)


@app.command("inversion", help=HELP_INVERSION)
def inversion(*, as_json: AsJson = False) -> None:
    """Read images from gradients."""
    from client.attack import inversion as attacking  # noqa: PLC0415  (torch is slow to import; --help needs none)

    found, blank = attacking.run()
    holds = all(one.psnr_db <= blank for one in found if one.leaves)
    if as_json:
        plain = {"attack": "inversion", "read": [asdict(one) for one in found], "blank_db": blank, "holds": holds}
        sys.stdout.write(json.dumps(plain, indent=2, sort_keys=True) + "\n")
    else:
        table = Table("read from", "PSNR (dB)")
        for one in found:
            table.add_row(one.name, f"{one.psnr_db:.1f}")
        table.add_row("nothing: a blank guess", f"{blank:.1f}")
        Console(highlight=False).print(table)
    raise typer.Exit(OK if holds else NOT_CONFORMING)
