"""motet-audit: verify and show what hospitals exported, offline."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from decimal import ROUND_CEILING, Decimal, localcontext
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common import commands
from common.audit import bundle as bundles
from common.audit import commands as following
from common.audit import replay as replays
from common.audit import show as shows
from common.audit import together, witnessed
from common.audit import verify as verifier
from common.audit.attack import cli as attack
from common.audit.ending import (
    CODES_HELP,
    DISAGREE,
    EGRESS,
    INTEGRITY,
    NOT_PINNED,
    OK,
    OVER_BUDGET,
    UNWITNESSED,
    UNWRITTEN,
    USAGE,
    check_pin,
    exit_code,
    fail,
)
from common.audit.show import printable
from common.audit.together import Checked, Remark
from common.audit.verify import Verdict
from common.errors import AnotherRoster, MotetError, OtherVersion, Unwitnessed

WHOLE: Final[Mapping[type[MotetError], str]] = {AnotherRoster: "another roster", OtherVersion: "other version"}  # not damaged
VERDICTS = {
    INTEGRITY: "damaged",
    OVER_BUDGET: "over budget",
    UNWITNESSED: "not witnessed",
    DISAGREE: "accountants disagree",
    USAGE: "not read",
}
GRAVITY = (OK, UNWITNESSED, DISAGREE, OVER_BUDGET, EGRESS, INTEGRITY, USAGE)  # the gravest of several bundles is the exit code

HELP_VERIFY = f"""Verify exported bundles: signatures, Merkle tree, state machine, plans, caps, two accountants.

{CODES_HELP} With several bundles, the gravest.
"""
HELP_REPLAY = f"""Add a run's signed uploads again and compare every sum, bit for bit, with the coordinator's journal.

{CODES_HELP}
"""
HELP = f"""Verify and show what hospitals exported; needs no network and trusts nobody.

{CODES_HELP}
"""
app = typer.Typer(
    cls=commands.Group, add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)
app.add_typer(attack.app, name="attack")
following.add(app)


@app.callback(help=HELP)
def _root(*, version: commands.Version = False) -> None:
    """Hold the options that come before a command."""


@app.command(help=HELP_VERIFY)
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles that hospitals exported.")],
    *,
    roster_hash: Annotated[str | None, typer.Option(help="The approved roster's hash, 64 hex digits.")] = None,
    seen: Annotated[
        list[Path] | None, typer.Option("--witnessed", help="What witnesses kept: a coordinator's witnessed.jsonl, evidence.")
    ] = None,
    witnesses: Annotated[int, typer.Option(min=0, help="How many must have cosigned; fewer end with 3.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Verify bundles and print a verdict for each."""
    check_pin(roster_hash)
    notes = _notes(seen or [])
    results = [_verified(path, roster_hash, notes=notes, witnesses=witnesses) for path in paths]
    remarks = list(together.remarks(results))
    if as_json:
        _print_json(
            [
                {**_plain_result(one), "remarks": [remark.says for remark in remarks if at in remark.about]}
                for at, one in enumerate(results)
            ]
        )
    else:
        _print_table(results, remarks, pinned=roster_hash is not None)
    codes = {OK if isinstance(one.result, Verdict) else exit_code(one.result) for one in results}
    raise typer.Exit(max(codes, key=GRAVITY.index))


@app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle that a hospital exported.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print the entries of a bundle in words, without verifying them."""
    try:
        rows = list(shows.rows(bundles.read(path)))
    except MotetError as error:
        fail(error)
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    table = Table("entry", "time (UTC)", "type", "what it says")
    for row in rows:
        table.add_row(str(row.seq), row.time, row.kind, escape(row.says))
    Console().print(table)


@app.command(help=HELP_REPLAY)
def replay(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, as the coordinator keeps it.")],
    *,
    roster_hash: Annotated[str | None, typer.Option(help="The approved roster's hash, 64 hex digits.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Add a run's signed uploads again and compare every sum, bit for bit, with the coordinator's journal."""
    check_pin(roster_hash)
    try:
        rounds = list(replays.replay(folder, roster_hash=roster_hash))
    except MotetError as error:
        fail(error)
    if as_json:
        _print_json([asdict(one) for one in rounds])
        if roster_hash is None:
            Console(stderr=True, highlight=False).print(NOT_PINNED, soft_wrap=True)
        return
    table = Table("round", "task", "hospitals", "sum", box=box.SIMPLE)
    for one in rounds:
        outcome = f"{one.sum_sha256[:16]}…, as in the journal" if one.sum_sha256 else f"void: {', '.join(one.missing)} missing"
        table.add_row(str(one.round), one.task, ", ".join(one.hospitals), escape(printable(outcome)))
    Console().print(table)
    if roster_hash is None:
        Console(highlight=False).print(NOT_PINNED, soft_wrap=True)


def main() -> None:
    """Run the command line; every failure is one sentence on stderr and an exit code, never a traceback."""
    commands.run(app, unread=UNWRITTEN)


def _notes(paths: list[Path]) -> Mapping[str, list[bytes]]:
    try:
        return witnessed.read(paths)
    except MotetError as error:
        fail(error)


def _verified(path: Path, roster_hash: str | None, *, notes: Mapping[str, list[bytes]], witnesses: int) -> Checked:
    hospital = None
    try:
        read = bundles.read(path)
        hospital = read.hospital
        verdict = verifier.verify(read, roster_hash=roster_hash, notes=notes.get(hospital, ()))
        if len(verdict.witnesses) < witnesses:
            raise Unwitnessed(
                f"{len(verdict.witnesses)} witnesses cosigned this ledger, {witnesses} are asked for.",
                action="Give the coordinator's witnessed.jsonl with --witnessed, or ask the hospital for a later bundle.",
            )
        return Checked(path=path, hospital=hospital, result=verdict)
    except MotetError as error:
        return Checked(path=path, hospital=hospital, result=error)


def _plain_result(one: Checked) -> dict[str, Any]:
    if isinstance(one.result, MotetError):
        told = {"code": one.result.code, "what": one.result.what, "action": one.result.action}
        return {"bundle": str(one.path), "hospital": one.hospital, "holds": False, **told}
    return {"bundle": str(one.path), "holds": True, **asdict(one.result)}


def _print_json(value: list[dict[str, Any]]) -> None:
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=_decimal) + "\n")


def _decimal(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError


def _print_table(results: list[Checked], remarks: list[Remark], *, pinned: bool) -> None:
    console = Console()
    table = Table(box=box.SIMPLE)
    table.add_column("hospital", overflow="fold", min_width=8)
    for title in ("epsilon (PLD)", "(RDP)", "delta", "cap"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for one in results:
        result = one.result
        if isinstance(result, MotetError):
            verdict = WHOLE.get(type(result)) or VERDICTS[exit_code(result)]
            table.add_row(escape(printable(one.hospital or one.path.name)), *["-"] * 4, f"[red]{verdict}[/red]")
            continue
        table.add_row(
            result.hospital,
            "withheld" if result.epsilon_pld is None else f"{result.epsilon_pld:f}",
            f"{result.epsilon_rdp:f}",
            _or_dash(result.delta),
            _or_dash(result.epsilon_cap),
            "[green]holds[/green]",
        )
    console.print(table)
    for one in results:
        if isinstance(one.result, Verdict):
            _print_remarks(console, one.result)
        else:
            console.print(escape(printable(f"{one.path.name}: {one.result}")), soft_wrap=True, highlight=False)
    for remark in remarks:
        console.print(escape(printable(remark.says)), soft_wrap=True, highlight=False)
    if not pinned:
        console.print(NOT_PINNED, soft_wrap=True, highlight=False)


def _print_remarks(console: Console, verdict: Verdict) -> None:
    name = verdict.hospital
    counts = f"{verdict.entries} entries, {verdict.releases_private} releases with noise, {len(verdict.exact)} exact"
    console.print(escape(printable(f"{name}: {counts}.")), highlight=False)
    for release in verdict.exact:
        console.print(escape(printable(f"{name}: entry {release.sequence}, EXACT {release.statistic}, epsilon infinite.")))
    if verdict.delta_added:
        added = _rounded_up(verdict.delta_added)
        says = f"{name}: noise in whole numbers, not a continuous Gaussian's, adds at most {added} to delta; epsilon counts it."
        console.print(escape(printable(says)), soft_wrap=True, highlight=False)
    if verdict.pld_withheld:
        console.print(f"{name}: PLD is withheld because {verdict.pld_withheld}.")
    if verdict.witnesses:
        by = ", ".join(verdict.witnesses)
        console.print(escape(printable(f"{name}: the first {verdict.witnessed_entries} entries were cosigned by {by}.")))
    if verdict.clock_steps_back:
        console.print(f"{name}: the clock went back {verdict.clock_steps_back} times.")


def _rounded_up(number: Decimal) -> str:
    """Return two digits of a small number, never below it."""
    with localcontext(prec=2, rounding=ROUND_CEILING):
        return f"{+number:.1e}" if number.is_finite() else "infinite"


def _or_dash(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:f}"
