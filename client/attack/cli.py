"""motet-hospital attack: attack the installed trainer on synthetic patients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import click
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.audit.attack.check import Check
from common.audit.attack.cli import AsJson, tell

if TYPE_CHECKING:
    from client.attack.shadows import Pictures

CANARIES_LEAST: Final = 200
CANARIES_MOST: Final = 10_000
SHADOWS_LEAST: Final = 32
SHADOWS_MOST: Final = 1_024
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
HELP_MEMBERSHIP: Final = """Guess who was in: members found at 1 % and 0.1 % false alarms, beside the most that noise allows.

First from the opened sums, by the likelihood ratio; then from trained heads, by LiRA and RMIA with shadow models, once with the
product's clipping and noise and once without, where the same attacks must win. A minute or two.
Exit codes: 0 no more are found than the claimed noise allows; 6 more are, or the attack has no power; 64 usage.
"""
REMARK_MEMBERSHIP: Final = (
    "From the sums: the attacker knows every canary and the noise, and no attack on a model that these sums made is stronger. "
    "Finding few is only consistent with the claim, and so are the lower bounds of epsilon."
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

    with _bar("steps", total=trainer.STEPS + sum(steps for *_, steps in RUNS)) as step:
        found = list(trainer.checks(steps=trainer.STEPS, progress=step))
        guesses = {}
        for name, noise, rate, steps in RUNS:
            seen = runs.run(noise=noise, rate=rate, steps=steps, canaries=canaries, progress=step)
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
    shadows: Annotated[
        int,
        typer.Option(min=0, max=SHADOWS_MOST, help="Shadow models, and as many targets: even, 32 or more; 0 trains none."),
    ] = 64,
    as_json: AsJson = False,
) -> None:
    """Find members by the likelihood ratio in one run of each kind, and by shadow models."""
    if shadows and (shadows % 2 or shadows < SHADOWS_LEAST):
        raise click.UsageError(f"--shadows is 0, or an even number of at least {SHADOWS_LEAST}")
    from client.attack import canaries as runs  # noqa: PLC0415  (torch is slow to import; --help needs none)
    from common.audit.attack import membership as judging  # noqa: PLC0415

    found: list[Check] = []
    told: dict[str, Any] = {}
    facts: dict[str, Any] = {"attack": "membership", "canaries": canaries, "found": told}
    with _bar("steps and models", total=sum(steps for *_, steps in RUNS) + 4 * shadows) as step:
        for name, noise, rate, steps in RUNS:
            seen = runs.run(noise=noise, rate=rate, steps=steps, canaries=canaries, progress=step)
            members = judging.attack(seen)
            found += judging.checks(members, name=name)
            told[name] = [asdict(one) for one in members]
        if shadows:
            from client.attack.shadows import random_pictures  # noqa: PLC0415

            more, facts["shadows"] = by_shadows(random_pictures(), models=shadows, step=step)
            found += more
    tell(found, as_json=as_json, facts=facts, remark=REMARK_MEMBERSHIP)


def by_shadows(pictures: "Pictures", *, models: int, step: Callable[[], None]) -> tuple[list[Check], dict[str, Any]]:
    """Attack heads trained on `pictures` with the product's noise, and without clipping and noise; return checks and facts.

    `models` is the number of shadows and that of targets; `step` is called after each.
    """
    from client.attack import shadows as training  # noqa: PLC0415
    from common.audit.attack import shadow  # noqa: PLC0415

    plan = training.plan()
    results, guesses = {}, 0
    for noised in (True, False):
        known, targets = training.trained(pictures, models=models, noised=noised, progress=step)
        results[noised] = shadow.attack(shadows=known, targets=targets, plan=plan)
        if noised:
            guesses = targets.inside.size
    found = list(shadow.checks(results[True], plan=plan, canaries=guesses, name="heads"))
    facts = {
        "models": models,
        "patients": training.PATIENTS,
        "plan": {**asdict(plan), "delta": str(plan.delta)},
        "with_noise": [asdict(one) for one in results[True]],
        "without_clipping_and_noise": [asdict(one) for one in results[False]],
    }
    return [*found, shadow.power(results[False], plan=plan)], facts


@app.command("inversion", help=HELP_INVERSION)
def inversion(*, as_json: AsJson = False) -> None:
    """Read images from gradients."""
    from client.attack import inversion as attacking  # noqa: PLC0415  (torch is slow to import; --help needs none)

    with _bar("gradients", total=len(attacking.KINDS)) as step:
        found, blank = attacking.run(progress=step)
    checks = [
        Check(
            name=one.name,
            claim=f"at most {blank:.1f} dB, a blank guess" if one.leaves else "never leaves",
            seen=f"{one.psnr_db:.1f} dB",
            p=float(not one.leaves or one.psnr_db <= blank),
        )
        for one in found
    ]
    facts = {"attack": "inversion", "read": [asdict(one) for one in found], "blank_db": blank}
    tell(checks, as_json=as_json, facts=facts)


@contextmanager
def _bar(what: str, *, total: int) -> Iterator[Callable[[], None]]:
    """Show progress on standard error; yields what is called after each part."""
    columns = (TextColumn("attacking"), BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
