"""motet-audit prove, verify-proof, recompute, reconcile, report, registry: what follows from verified bundles."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import click
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common import files, roster
from common.audit import accountants, page, page_html, proof, reconcile, registry, report
from common.audit import bundle as bundles
from common.audit import verify as verifier
from common.audit.attack import given
from common.audit.bundle import Bundle
from common.audit.ending import CODES_HELP, NOT_PINNED, check_pin, fail
from common.audit.neighbours import Neighbours
from common.audit.show import printable
from common.audit.verify import Verdict
from common.errors import ConfigError, MotetError, RecordDamaged
from common.ledger import note

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RosterHash = Annotated[str | None, typer.Option(help="The approved roster's hash, 64 hex digits.")]
COLUMNS: Final = {  # of recompute: by accountant, the fields of Costs and their titles
    "pld": {"pld": "PLD", "pld_independent": "PLD, second", "pld_withheld": "", "neighbours_pld": ""},
    "prv": {"prv": "PRV, at most"},
    "rdp": {"rdp": "RDP", "neighbours": "", "by_study": ""},
}
NEIGHBOURS: Final = {
    "add_or_remove_one": "added or removed",
    "zero_out": "set to zero",
    "replace_one": "replaced",
    "two_hospitals": "in two hospitals of every round",
}
Bundles = Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles that hospitals exported.")]


def add(app: typer.Typer) -> None:
    """Add the commands to the auditor's command line."""
    named: dict[str, Callable[..., None]] = {
        "prove": prove,
        "verify-proof": verify_proof,
        "recompute": recompute_command,
        "reconcile": reconcile_command,
        "registry": registry_command,
        "report": report_command,
    }
    for name, command in named.items():
        app.command(name, help=f"{command.__doc__}\n\n{CODES_HELP}")(command)


def prove(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle that a hospital exported.")],
    seq: Annotated[int, typer.Argument(min=0, help="The number of the entry, as `show` prints it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
) -> None:
    """Write one entry with its proof (a C2SP tlog-proof), which shows no other entry."""
    try:
        files.write_new(out, proof.prove(bundles.read(path), seq=seq))
    except OSError as error:
        fail(ConfigError(f"{out} cannot be written ({error.strerror}).", action="Choose another place, or free the disk."))
    except IndexError:
        fail(ConfigError(f"The bundle has no entry {seq}.", action="See `motet-audit show`."))
    except MotetError as error:
        fail(error)
    Console(highlight=False).print(f"Wrote {out}.", soft_wrap=True)


def verify_proof(
    path: Annotated[Path, typer.Argument(metavar="PROOF", help="What `prove` wrote.")],
    key: Annotated[str, typer.Option(help="The ledger's key (vkey): `ledger` of the hospital in roster.json.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Check one entry's proof under its ledger's key."""
    try:
        public = note.parse_key(key)
    except RecordDamaged:
        raise click.UsageError(
            "--key must be a vkey as the roster has it: `ledger` of the hospital in its roster.json"
        ) from None
    try:
        with path.open("rb") as file:
            data = file.read(proof.BYTES_MOST + 1)
        proven = proof.verify(data, key=public)
    except OSError as error:
        fail(ConfigError(f"{path} cannot be read ({error.strerror}).", action="Check the path."))
    except MotetError as error:
        fail(error)
    event = proven.event
    plain = {"ledger": proven.origin, "entries": proven.entries, "seq": event.seq, "type": event.kind.value, "ts": event.ts}
    if as_json:
        tell({**plain, "fields": dict(event.fields)})
    else:
        says = f"Entry {event.seq} ({event.kind.value}) is in the ledger {proven.origin} of {proven.entries} entries."
        Console(highlight=False).print(escape(printable(says)), soft_wrap=True)


def recompute_command(
    paths: Bundles,
    *,
    accountants_wanted: Annotated[
        str, typer.Option("--accountants", metavar="NAMES", help="Of pld, prv, rdp, those to print, by comma.")
    ] = ",".join(COLUMNS),
    roster_hash: RosterHash = None,
    as_json: AsJson = False,
) -> None:
    """Recompute epsilon from the entries alone, by every accountant, and for other notions of neighbours."""
    wanted = accountants_wanted.split(",")
    if not set(wanted) <= set(COLUMNS):
        raise click.UsageError(f"--accountants takes {', '.join(COLUMNS)}, by comma")
    verified = _verified(paths, roster_hash)
    try:
        found = {
            name: accountants.costs(*both, with_prv="prv" in wanted, with_neighbours_pld="pld" in wanted)
            for name, both in verified.items()
        }
    except MotetError as error:
        fail(error)
    left_out = {key for name in set(COLUMNS) - set(wanted) for key in COLUMNS[name]}
    if as_json:
        told = [{"hospital": name, **asdict(one), "by_study": dict(one.by_study)} for name, one in found.items()]
        tell([{key: value for key, value in one.items() if key not in left_out} for one in told])
        return
    columns = {key: title for name in COLUMNS if name in wanted for key, title in COLUMNS[name].items() if title}
    table = Table("hospital", "delta", *columns.values(), "closed form", box=box.SIMPLE)
    for name, one in found.items():
        table.add_row(name, *(_number(getattr(one, key)) for key in ("delta", *columns, "closed_form")))
    console = Console(highlight=False)
    console.print(table)
    if "rdp" in wanted:
        console.print(_neighbours("RDP", {name: one.neighbours for name, one in found.items()}))
    if "pld" in wanted:
        console.print(_neighbours("PLD", {name: one.neighbours_pld for name, one in found.items()}))
    for name, one in found.items():
        if one.pld_withheld:
            console.print(f"{name}: PLD and PRV are withheld because {one.pld_withheld}.", soft_wrap=True)
        elif one.prv is None and "prv" in wanted:
            console.print(
                f"{name}: PRV cannot say it: too many releases, too little noise, or delta too small.", soft_wrap=True
            )


def _neighbours(accountant: str, costs: Mapping[str, Neighbours | None]) -> Table:
    title = f"{accountant}, of neighbours that differ by one patient"
    told = Table("hospital", *NEIGHBOURS.values(), box=box.SIMPLE, title=title)
    for name, one in costs.items():
        told.add_row(name, *(_number(getattr(one, key, None)) for key in NEIGHBOURS))
    return told


def reconcile_command(
    paths: Bundles,
    *,
    runs: Annotated[list[Path], typer.Option("--run", help="A run's folder, as the coordinator keeps it; repeatable.")],
    roster_hash: RosterHash = None,
    as_json: AsJson = False,
) -> None:
    """Hold hospitals' ledgers against the coordinator's runs, both ways."""
    held = {name: one for name, (one, _) in _verified(paths, roster_hash).items()}
    try:
        known = roster.parse(next(iter(held.values())).roster)
        rows = list(reconcile.reconcile(held, folders=runs, roster=known))
    except MotetError as error:
        fail(error)
    seen = {row.run for row in rows}
    absent = sorted({run for one in held.values() for run in reconcile.runs(one)} - seen)
    missing = sorted(set(known.names) - set(held))
    if as_json:
        compared = [asdict(row) for row in rows]
        tell({"compared": compared, "runs_without_a_folder": absent, "hospitals_without_a_bundle": missing})
        return
    table = Table("run", "hospital", "same on both sides", "left and lost on the way", box=box.SIMPLE)
    for row in rows:
        table.add_row(row.run, row.hospital, str(row.agreed), ", ".join(map(str, row.lost)) or "-")
    console = Console(highlight=False)
    console.print(table)
    if absent:
        console.print(f"No folder was given of the runs {', '.join(absent)}: these are not reconciled.", soft_wrap=True)
    if missing:
        console.print(f"No bundle was given of {', '.join(missing)}: these are not reconciled.", soft_wrap=True)


def registry_command(paths: Bundles, *, roster_hash: RosterHash = None) -> None:
    """Print the deployment record of each hospital (registry of deployments, tier 3)."""
    tell([registry.record(one, verdict) for one, verdict in _verified(paths, roster_hash).values()])


def report_command(
    paths: Bundles,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.")],
    html: Annotated[
        bool, typer.Option("--html", help="Write HOSPITAL.html; without any of the three, all are written.")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write HOSPITAL.pdf: PDF/A-3b with the record inside.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write HOSPITAL.json, the record that the page shows.")] = False,
    attacks: Annotated[
        list[Path] | None, typer.Option("--attacks", help="What an attack printed with --json; repeatable.")
    ] = None,
    language: Annotated[str, typer.Option("--lang", help="en or zh.")] = "en",
    roster_hash: RosterHash = None,
) -> None:
    """Write a page per hospital for its data protection officer."""
    if language not in page.LANGUAGES:
        raise click.UsageError(f"--lang is one of {', '.join(page.LANGUAGES)}")
    every = not (html or pdf or as_json)
    try:
        results = given.read(attacks or [])
    except MotetError as error:
        fail(error)
    made = _verified(paths, roster_hash)
    for name, (one, verdict) in made.items():
        try:
            facts = report.facts(one, verdict, attacks=results)
        except MotetError as error:
            fail(error, about=name)
        said, record = page.page(facts, language=language), report.plain(facts)
        written = {}
        if every or as_json:
            written[f"{name}.json"] = record
        if every or html:
            written[f"{name}.html"] = page_html.render(said).encode()
        if every or pdf:
            from common.audit import page_pdf  # noqa: PLC0415  (its libraries take half a second)

            written[f"{name}.pdf"] = page_pdf.render(said, record=record, name=f"{name}.json", stamp=facts.values["last_entry"])
        try:
            out.mkdir(parents=True, exist_ok=True)
            for file, data in written.items():
                files.write(out / file, data)
        except OSError as error:
            fail(ConfigError(f"{out} cannot be written ({error.strerror}).", action="Choose another folder, or free the disk."))
        Console(highlight=False).print(f"Wrote {', '.join(str(out / file) for file in written)}.", soft_wrap=True)


def tell(value: Any) -> None:  # noqa: ANN401
    """Print JSON; decimals as text."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=_decimal, ensure_ascii=False) + "\n")


def _verified(paths: list[Path], roster_hash: str | None) -> dict[str, tuple[Bundle, Verdict]]:
    check_pin(roster_hash)
    found: dict[str, tuple[Bundle, Verdict]] = {}
    for path in paths:
        try:
            read = bundles.read(path)
            if read.hospital in found:
                raise ConfigError(f"{read.hospital} is given twice.", action="Give one bundle of each hospital.")
            found[read.hospital] = (read, verifier.verify(read, roster_hash=roster_hash))
        except MotetError as error:
            fail(error, about=path.name)
    if len({verdict.roster_hash for _, verdict in found.values()}) > 1:
        fail(RecordDamaged("The bundles hold different rosters.", action="Give bundles of one federation."))
    if roster_hash is None:
        Console(stderr=True, highlight=False).print(NOT_PINNED, soft_wrap=True)
    return found


def _number(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:f}"


def _decimal(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError
