"""motet-audit attack: try to break what the installed code claims."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.audit.attack import conformance as conforming
from common.audit.attack.check import CHECKS_MOST, FALSE_ALARM, FOUND, LEVEL, Check, all_hold
from common.canonical import decimal_text

OK, NOT_CONFORMING = 0, 6

MEANS: Final = (
    "holds: what was seen is not significantly beyond the claim; it may be a little beyond it by chance. p: the probability of "
    f"something so extreme in a right build; it is held against {LEVEL:.1e}, that is {FALSE_ALARM:g} over {CHECKS_MOST} checks "
    "(Bonferroni)."
)
HELP: Final = "Attacks on the installed code; no patient, no scan and no ledger is touched."
HELP_CONFORMANCE = """Draw noise and Poisson samples through the installed hospital code; test them against what ledgers claim.

Exit codes: 0 every check holds; 6 the code does not do what it claims; 50-51 it could not be run; 64 usage.
"""
app = typer.Typer(add_completion=False, no_args_is_help=True, help=HELP)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback()
def _root() -> None:
    pass


@app.command(help=HELP_CONFORMANCE)
def conformance(
    *,
    rounds: Annotated[
        int,
        typer.Option(
            min=conforming.ROUNDS_LEAST, max=conforming.ROUNDS_MOST, help="Rounds to draw; more find smaller deficits."
        ),
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Test noise and samples of this installation."""
    drawn = conforming.drawn_by_this_installation(rounds=rounds)
    found = conforming.checks(drawn)
    drew = {"rounds": rounds, "shares": int(drawn.shares.size), "samples": int(drawn.samples.size)}
    claimed = {**drawn.mechanism.entry(), "sampling_rate": decimal_text(drawn.rate)}
    tell(found, as_json=as_json, facts={"attack": "conformance", "claimed": claimed, "drew": drew})


def tell(checks: Sequence[Check], *, as_json: bool, facts: dict[str, Any], remark: str = "") -> None:
    """Print the checks as a table and `remark`, or with `facts` as JSON, and end with the exit code that they mean."""
    holds = all_hold(checks)
    if as_json:
        plain = {**facts, "holds": holds, "false_alarm": FALSE_ALARM, "checks": [check.plain() for check in checks]}
        sys.stdout.write(json.dumps(plain, indent=2, sort_keys=True) + "\n")
        raise typer.Exit(OK if holds else NOT_CONFORMING)
    console = Console(highlight=False)
    table = Table("check", "claimed", "seen", "p", "", box=box.SIMPLE)
    for check in checks:
        verdict = "[green]holds[/]" if check.holds else "[red]FAILS[/]"
        table.add_row(escape(check.name), escape(check.claim), escape(check.seen), f"{check.p:.2g}", verdict)
    console.print(table)
    console.print(MEANS, markup=False, soft_wrap=True)
    for check in checks:
        if check.power:
            console.print(f"{check.name}: {check.power}, with probability {FOUND}.", markup=False, soft_wrap=True)
    if remark:
        console.print(remark, markup=False, soft_wrap=True)
    failed = sum(not check.holds for check in checks)
    console.print(f"A right build fails here once in {1 / FALSE_ALARM:,.0f} runs.")
    console.print("Every check holds." if holds else f"{failed} of {len(checks)} checks fail: do not trust this build's noise.")
    raise typer.Exit(OK if holds else NOT_CONFORMING)
