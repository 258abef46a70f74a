"""motet-hospital: set up a hospital, approve what it takes part in, run its vault and relay, see what it has spent."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typing_extensions import override

from client import config, copies, doctor, officers, proposal, supernode
from client import parameters as parameters_command
from client import preview as preview_command
from client import relay as relays
from client import scans as scans_command
from client.attack import cli as attack
from client.config import Home, Site
from client.ledger import Ledger, Spent
from client.options import AsJson, Folder
from client.origin import ledger_origin
from client.relay import RelayHome
from client.sources import cli as sources
from client.witness import Memory
from common import commands, enrolment, files, findings
from common import roster as rosters
from common import study as studies
from common.audit import bundle
from common.canonical import decimal_text
from common.errors import NotSetUp, VaultNotRunning
from common.ledger import note, post_quantum
from common.locks import held
from common.roster import Member, Roster

app = typer.Typer(
    cls=commands.Group,
    no_args_is_help=True,
    add_completion=False,
    help="Take part in studies with scans that never leave this hospital.\n\n"
    "Order: init, enrol (send the file to the coordinator), approve --roster, approve --study, vault (keeps running), "
    "relay (keeps running), status.\n\n" + commands.EXIT_CODES,
)
commands.with_version(app)
app.add_typer(attack.app, name="attack")
app.command("scans")(scans_command.scans)
app.command("deidentify")(copies.deidentify)
app.command("parameters")(parameters_command.parameters)
app.command("preview")(preview_command.preview)
app.command("receive")(sources.receive)
app.add_typer(sources.pull, name="pull")
out = Console(highlight=False)


class _Exact(click.ParamType[Decimal]):
    """A decimal, kept exactly as it was typed."""

    name = "decimal"

    @override
    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Parse a decimal; a usage error on anything else."""
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            self.fail("not a decimal", param, ctx)
        if not number.is_finite():
            self.fail("not finite", param, ctx)
        return number


HashText = Annotated[str | None, typer.Option("--hash", help="The hash that the coordinator told you by another way.")]


@app.command()
def init(
    home: Folder,
    name: Annotated[str, typer.Option(help="The hospital's name in the federation: lower-case letters, digits, hyphens.")],
    scans: Annotated[Path, typer.Option(help="Folder with DICOM files; it is only read.")],
    clinical: Annotated[Path, typer.Option(help="CSV with a column patient_id; it is only read.")],
    epsilon_cap: Annotated[Decimal, typer.Option(click_type=_Exact(), help="Most epsilon that a patient may ever be charged.")],
    delta_cap: Annotated[Decimal, typer.Option(click_type=_Exact(), help="Largest delta that a study may use.")],
    hospitals_min: Annotated[int, typer.Option(help="Refuse rounds of fewer hospitals (3 or more).")],
    colluders_min: Annotated[int, typer.Option(help="Refuse studies that assume fewer colluding hospitals.")],
    patients_min: Annotated[int, typer.Option(help="Refuse studies in which fewer of our patients are usable.")],
    exact_releases_max: Annotated[int, typer.Option(help="Most sums without noise that may ever leave; 0 for none.")],
) -> None:
    """Make the hospital's folder: keys and site.toml. Privacy settings have no defaults: you choose each one."""
    config.create(
        home,
        name=name,
        scans=scans,
        clinical=clinical,
        epsilon_cap=epsilon_cap,
        delta_cap=delta_cap,
        hospitals_min=hospitals_min,
        colluders_min=colluders_min,
        patients_min=patients_min,
        exact_releases_max=exact_releases_max,
    )
    for path in (scans, clinical):
        if not path.exists():
            out.print(f"[yellow]{path} is not there yet.[/]", soft_wrap=True)
    out.print(f"Made {home}. Next: `motet-hospital enrol --home {home} FILE`.", soft_wrap=True)


@app.command()
def enrol(
    home: Folder,
    request: Annotated[Path, typer.Argument(help="File to write and send to the coordinator.")],
    as_json: AsJson = False,
) -> None:
    """Write this hospital's public keys, signed, for the coordinator."""
    made = Home(home)
    site = config.read_site(made)
    key = config.identity_key(made)
    node_key, relay_certificate = relays.public(RelayHome(made.relay))
    member = Member(
        name=site.name,
        identity=key.public_key().public_bytes_raw().hex(),
        ledger_key=note.key_of(ledger_origin(site.name), key=config.ledger_key(made)).vkey,
        ledger_ml_dsa=post_quantum.key_of(ledger_origin(site.name), key=config.ledger_key(made)).vkey,
        node_key=node_key,
        relay_certificate=relay_certificate,
    )
    files.write_new(request, enrolment.request(member, key=key))
    if as_json:
        out.print_json(json.dumps({"request": str(request), "hospital": member.name, "identity": member.identity}))
        return
    identity = rosters.in_groups(member.identity)
    out.print(
        f"Wrote {request}. Send it to the coordinator, and read this identity to it by telephone:\n  {identity}", soft_wrap=True
    )


@app.command()
def approve(
    home: Folder,
    roster: Annotated[Path | None, typer.Option(help="The coordinator's roster.json.")] = None,
    study: Annotated[Path | None, typer.Option(help="The coordinator's study file.")] = None,
    expected_hash: HashText = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole file as JSON, with its hash, instead of words.")
    ] = False,
) -> None:
    """Approve a roster or a study by its hash; without --hash, say what it is and what would leave, and approve nothing."""
    made = Home(home)
    if (roster is None) == (study is None):
        raise click.UsageError("give either --roster or --study")
    data = files.read(roster or study or Path())
    site = config.read_site(made)
    read = rosters.parse(data) if roster is not None else studies.parse(data)
    said = proposal.roster(read) if isinstance(read, Roster) else proposal.study(read, policy=site.policy)
    if expected_hash is not None and roster is not None:
        config.approve_roster(made, data=data, expected_hash=expected_hash)
    elif expected_hash is not None:
        config.approve_study(made, data=data, expected_hash=expected_hash)
    if as_json:
        plain = json.loads(data)
        out.print_json(json.dumps({"approved": expected_hash is not None, "hash": read.hash(), "file": plain, "words": said}))
        return
    for line in said:
        out.print(line, markup=False, soft_wrap=True)
    if expected_hash is None:
        out.print(f"hash {read.hash()}", soft_wrap=True)
        out.print("Nothing was approved. Compare the hash with the coordinator and give it with --hash.")
    elif isinstance(read, Roster):
        out.print(f"Approved the roster of {read.federation}: {', '.join(read.names)}.", soft_wrap=True)
    else:
        out.print(f"Approved the study {read.name} ({read.title}).", markup=False, soft_wrap=True)


@app.command()
def vault(home: Folder) -> None:
    """Read the scans, then answer the relay until Ctrl-C. This process needs no network."""
    from client.serve import serve  # noqa: PLC0415  (torch and the codecs are slow to import; other commands need neither)

    os.umask(0o077)  # the socket is private from the moment it is bound
    stop, ready = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Progress(
        TextColumn("reading scans"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=out, transient=True
    ) as progress:
        shown = progress.add_task("", total=None, visible=False)
        said: set[int] = set()

        def show(done: int, total: int) -> None:
            progress.update(shown, completed=done, total=total, visible=done < total)
            part = 20 * done // max(1, total)
            if not out.is_terminal and part not in said:
                said.add(part)
                out.print(f"reading scans: {done} of {total} files")

        def announce() -> None:
            ready.wait()
            progress.console.print("vault ready")

        threading.Thread(target=announce, daemon=True).start()
        serve(home, progress=show, ready=ready, stop=stop)


@app.command()
def relay(
    folder: Annotated[Path, typer.Option(help="The relay's folder: `relay` in the hospital's.", envvar="MOTET_RELAY_HOME")],
    superlink: Annotated[str, typer.Option(help="HOST:PORT at which the coordinator answers.")],
    ca: Annotated[Path, typer.Option(help="The coordinator's ca.crt.")],
    lane: Annotated[str | None, typer.Option(help="HOST:PORT of the coordinator's lane, where it is another.")] = None,
) -> None:
    """Connect to the coordinator and pass envelopes between it and the vault, until Ctrl-C."""
    made = RelayHome(folder)
    files.read(ca)
    if not _answers(relays.vault_socket(made)):
        raise VaultNotRunning("No vault answers on its socket.", action="Start `motet-hospital vault` first.")
    os.umask(0o077)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    supernode.run(made, superlink=superlink, lane=lane or superlink, ca=ca, stop=stop)


@app.command()
def status(home: Folder, as_json: AsJson = False) -> None:
    """Show what this hospital allows, what it has spent, and whether its vault runs. No patient's value is shown."""
    made = Home(home)
    site = config.read_site(made)
    spent = _spent(made, site)
    running = held(made.lock)
    if as_json:
        out.print_json(json.dumps(_typed(site, spent, running=running, cohorts=_cohorts(made))))
        return
    facts: dict[str, str] = {
        "hospital": site.name,
        "vault": "runs" if running else "does not run",
        "approved roster": site.policy.approved_roster or "none",
        "approved studies": str(len(site.policy.allowed_studies)),
        "epsilon spent / cap (RDP)": f"{spent.epsilon_rdp if spent else 0} / {site.policy.epsilon_cap}",
        "delta cap": str(site.policy.delta_cap),
        "releases with noise": str(spent.releases_private if spent else 0),
        "exact sums counted / most": f"{spent.exact_counted if spent else 0} / {site.policy.exact_releases_max}",
        "exact sums that left": str(spent.releases_exact if spent else 0),
        "refusals": str(spent.refusals if spent else 0),
    }
    for cohort in _cohorts(made):
        aside = ", ".join(f"{count} {reason}" for reason, count in sorted(cohort["set_aside"].items())) or "nothing"
        facts[f"cohort {cohort['cohort']}"] = f"{cohort['patients']} patients, {cohort['views']} views; set aside: {aside}"
    table = Table(show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    out.print(table)


@app.command("doctor")
def doctor_command(
    home: Annotated[
        Path | None, typer.Option("--home", help="The hospital's folder: looks at the vault.", envvar="MOTET_HOSPITAL_HOME")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="The relay's folder: looks at the relay.", envvar="MOTET_RELAY_HOME")
    ] = None,
    superlink: Annotated[str | None, typer.Option(help="HOST:PORT at which the coordinator answers; for the relay.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The coordinator's ca.crt; for the relay.")] = None,
    lane: Annotated[str | None, typer.Option(help="HOST:PORT of the coordinator's lane, where it is another.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with the vault or the relay, and how to mend it. Exit code 10 when something must be mended."""
    if home is None and folder is None:
        raise click.UsageError("give --home, or --folder with --superlink and --ca, or all of them")
    if folder is not None and (superlink is None or ca is None):
        raise click.UsageError("the relay's side needs --superlink and --ca")
    found = list(doctor.vault_side(Home(home))) if home else []
    if folder and superlink and ca:
        made = RelayHome(folder)
        found += doctor.relay_side(
            made,
            superlink=findings.address(superlink),
            lane_at=findings.address(lane or superlink),
            ca=ca,
            reading=doctor.READING in found,
        )
        found += [doctor.known(Home(home), made)] if home else []
    raise typer.Exit(findings.show(found, console=out, as_json=as_json))


app.command("officer")(officers.officer)
app.command("sign-policy")(officers.sign_policy)


@app.command("bundle")
def bundle_command(home: Folder, path: Annotated[Path, typer.Argument(help="The zip to write, for an auditor.")]) -> None:
    """Export the ledger, its signed checkpoint, the roster and the approved studies, for `motet-audit verify`."""
    made = Home(home)
    site = config.read_site(made)
    roster = config.approved_roster(made, site)
    with _ledger(made, site) as ledger:
        bundle.write(
            path,
            entries=ledger.entries(),
            checkpoint=ledger.checkpoint(ml_dsa=bool(roster.member(site.name).ledger_ml_dsa)),
            roster=roster.bytes(),
            studies={study_hash: config.known_study(made, study_hash=study_hash) for study_hash in ledger.studies()},
            hospital=site.name,
            witnessed=Memory.load(made.state).own.encode(),
        )
    out.print(f"Wrote {path}.", soft_wrap=True)


def _ledger(home: Home, site: Site) -> Ledger:
    if not home.ledger.exists():
        raise NotSetUp("There is no ledger yet.", action="Start `motet-hospital vault` once.")
    return Ledger.look(
        home.ledger, origin=ledger_origin(site.name), key=config.ledger_key(home), clock=lambda: int(time.time())
    )


def _spent(home: Home, site: Site) -> Spent | None:
    if not home.ledger.exists():
        return None
    with _ledger(home, site) as ledger:
        return ledger.spent(delta=site.policy.delta_cap)


def _typed(site: Site, spent: Spent | None, *, running: bool, cohorts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the state for programs: counts are numbers, epsilon and delta exact decimals as text, absent is null."""
    return {
        "hospital": site.name,
        "vault_runs": running,
        "approved_roster": site.policy.approved_roster,
        "approved_studies": list(site.policy.allowed_studies),
        "epsilon_spent_rdp": decimal_text(spent.epsilon_rdp) if spent else "0",
        "epsilon_cap": decimal_text(site.policy.epsilon_cap),
        "delta_cap": decimal_text(site.policy.delta_cap),
        "releases_private": spent.releases_private if spent else 0,
        "releases_exact": spent.releases_exact if spent else 0,
        "exact_counted": spent.exact_counted if spent else 0,
        "exact_releases_max": site.policy.exact_releases_max,
        "refusals": spent.refusals if spent else 0,
        "cohorts": cohorts,
    }


def _cohorts(home: Home) -> list[dict[str, Any]]:
    from client import shelf  # noqa: PLC0415  (pulls numpy and the steps in; only this command counts patients)

    found = []
    for path in sorted(home.cohorts.glob("*.npz")):
        cohort = shelf.load(path)
        aside = dict(Counter(item.reason for item in cohort.set_aside))
        found.append(
            {"cohort": path.stem[:8], "patients": len(cohort.patients), "views": len(cohort.views), "set_aside": aside}
        )
    return found


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def main() -> None:
    """Entry point."""
    commands.run(app)
