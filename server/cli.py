"""motet-coordinator: enrol hospitals, serve them, plan and propose a study; the commands of runs are added."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from common import commands, enrolment, files, findings, fixed_point, parameters, roster
from common import study as studies
from common.errors import AlreadyExists, ConfigError
from common.locks import held, hold
from common.mechanism import LOCAL_STEPS_MOST
from common.roster import Member
from common.study import Study
from server import (
    certificates,
    config,
    doctor,
    door,
    exchange,
    keeper,
    nodes,
    plan_noise,
    plan_rhythms,
    revoking,
    run_commands,
    stopping,
    superlink,
)
from server.config import Home, Settings
from server.options import HOME_VARIABLE, AsJson, Folder, beside, out

app = typer.Typer(
    cls=commands.Group,
    no_args_is_help=True,
    add_completion=False,
    help="Run a federation: hospitals upload masked vectors, you see sums.\n\n"
    "Order: init, enrol (each hospital's request), serve (keeps running), propose, run, report.\n\n" + commands.EXIT_CODES,
)
commands.with_version(app)


@app.command()
def init(
    home: Folder,
    name: Annotated[str, typer.Option(help="The coordinator's name: lower-case letters, digits, hyphens.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    address: Annotated[str, typer.Option(help="HOST:PORT at which hospitals reach you; use a loopback host for a trial.")],
    superlink_address: Annotated[
        str | None, typer.Option("--superlink", help="HOST:PORT at which the SuperLink listens; --address where left out.")
    ] = None,
    lane: Annotated[str | None, typer.Option(help="HOST:PORT at which the lane listens; the next port where left out.")] = None,
) -> None:
    """Make the coordinator's folder: identity, certificate authority, TLS certificate."""
    behind = superlink_address or address
    host, port = config.split(behind)
    next_port = f"{behind.rpartition(':')[0]}:{min(port + 1, 65535)}"
    settings = Settings(name=name, federation=federation, address=address, superlink=behind, lane=lane or next_port)
    if door.stands(settings):
        door.check(Home(home), settings)
    made = config.create(home, settings=settings)
    certificates.create(made.certificates, keys=made.keys, federation=federation, hosts=(settings.host, host))
    superlink.write_connection(made, settings)
    if door.stands(settings):
        out.print(f"Wrote {door.write(made, settings)}; `motet-coordinator door` opens it.", soft_wrap=True)
    out.print(f"Made {home}. Give {made.certificates / 'ca.crt'} and {address} to the hospitals.", soft_wrap=True)


@app.command()
def enrol(
    home: Folder,
    requests: Annotated[list[Path], typer.Argument(help="Every hospital's file from `motet-hospital enrol`, all in one call.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an earlier roster; every hospital approves anew.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign the roster of these hospitals, and print the hash that each of them approves."""
    made, settings = Home(home), config.read_settings(Home(home))
    if len(set(requests)) < len(requests):
        twice = next(path for path in requests if requests.count(path) > 1)
        raise ConfigError(f"{twice} was given twice.", action="Give each hospital's file once.")
    members = {str(path): _request(path) for path in requests}
    enrolment.distinct(members)
    signed = roster.sign(
        federation=settings.federation,
        coordinator=settings.name,
        key=config.identity_key(made),
        members=tuple(members.values()),
    )
    if made.roster_file.exists() and not replace and config.read_roster(made).body() != signed.body():
        raise AlreadyExists("There is another roster already.", action="Give --replace; every hospital then approves anew.")
    files.write(made.roster_file, signed.bytes())
    if as_json:
        told = {"roster": str(made.roster_file), "hash": signed.hash(), "hospitals": list(signed.names)}
        out.print_json(json.dumps({**told, "identities": {member.name: member.identity for member in signed.members}}))
        return
    for member in signed.members:
        out.print(f"{member.name}\n  {roster.in_groups(member.identity)}", soft_wrap=True)
    out.print(
        "Compare each identity with the hospital by telephone, before anything else: the file alone shows only that its sender "
        "holds that key. One that differs: enrol again without it.",
        soft_wrap=True,
    )
    if len(signed.members) == roster.MEMBERS_FEWEST:
        out.print("Two hospitals only: each of them can take its own part out of a sum and has the other's.", soft_wrap=True)
    out.print(f"Roster of {', '.join(signed.names)}: {made.roster_file}\nhash {signed.hash()}", soft_wrap=True)
    out.print("Tell each hospital this hash by another way than the file; it runs `motet-hospital approve --roster`.")


@app.command()
def revoke(
    home: Folder, hospital: Annotated[str, typer.Argument(help="The hospital's name.")], as_json: AsJson = False
) -> None:
    """Take a hospital off the roster and its node key away at the SuperLink; the others approve the new roster.

    A study under way is stopped.
    """
    made, settings = Home(home), config.read_settings(Home(home))
    stopped = revoking.revoke(made, settings, hospital=hospital)
    signed, served = config.read_roster(made), held(home / "serve.lock")
    if served:
        nodes.match(made, settings, signed)
    if as_json:
        told = {"hash": signed.hash(), "hospitals": list(signed.names), "stopped": stopped, "node_key_taken_away": served}
        out.print_json(json.dumps(told))
        return
    for name in stopped:
        out.print(f"Run {name}: {stopping.told(made.runs / name)}", soft_wrap=True)
    out.print(
        f"The SuperLink no longer lets {hospital} in."
        if served
        else f"`serve` takes {hospital}'s node key away when it starts.",
        soft_wrap=True,
    )
    out.print(f"Roster of {', '.join(signed.names)}: {made.roster_file}\nhash {signed.hash()}", soft_wrap=True)
    out.print("Tell each of them this hash by another way than the file; it runs `motet-hospital approve --roster`.")


@app.command()
def serve(home: Folder) -> None:
    """Start the SuperLink for the hospitals' relays and keep it running until Ctrl-C."""
    made, settings = Home(home), config.read_settings(Home(home))
    signed = config.read_roster(made)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with hold(home / "serve.lock", busy="A SuperLink of this coordinator runs already."):
        keeper.keep(made, settings, signed, stop=stop, say=lambda text: out.print(text, soft_wrap=True))


@app.command("door")
def door_command(home: Folder) -> None:
    """Become nginx, the one public port before SuperLink and lane, until Ctrl-C; for a coordinator behind --superlink."""
    made = Home(home)
    settings = config.read_settings(made)
    command = door.command(made, settings)
    logs = door.folder(made) / "logs"
    out.print(f"The door opens at {settings.address}, by nginx; it writes to {logs}. Ctrl-C closes it.", soft_wrap=True)
    os.umask(0o077)
    os.execv(command[0], command)  # noqa: S606  (no shell wanted)


@app.command("doctor")
def doctor_command(home: Folder, as_json: AsJson = False) -> None:
    """Say what is wrong with this coordinator, and how to mend it. Exit code 10 when something must be mended."""
    raise typer.Exit(findings.show(list(doctor.look(Home(home))), console=out, as_json=as_json))


@app.command()
def propose(home: Folder, study_file: Annotated[Path, typer.Argument(help="study.toml")], as_json: AsJson = False) -> None:
    """Check a study and write the file that hospitals approve by its hash."""
    made = Home(home)
    config.read_settings(made)
    study = studies.read_toml(study_file)
    parameters.check(study)
    plan_noise.check(study, hospitals=_hospitals(made, study))
    path = made.studies / f"{study.hash()}.study.json"
    files.write(path, study.canonical_bytes())
    if as_json:
        out.print_json(json.dumps({"study": str(path), "hash": study.hash()}))
        return
    out.print(f"Study {study.name}: {path}\nhash {study.hash()}", soft_wrap=True)


@app.command()
def plan(
    study_file: Annotated[Path, typer.Argument(help="study.toml")],
    patients: Annotated[
        int | None, typer.Option(help="Patients complete in all columns, over all hospitals.", min=2, max=fixed_point.ROWS_MOST)
    ] = None,
    hospitals: Annotated[
        int | None, typer.Option(help="Hospitals; where left out those of --home's roster, else hospitals_min.", min=2, max=64)
    ] = None,
    link_mbit_s: Annotated[float | None, typer.Option(help="Link of the slowest hospital, for the time of training.")] = None,
    round_s: Annotated[float | None, typer.Option(help="Measured seconds of one sum; goes before the link.")] = None,
    step_s: Annotated[
        float | None,
        typer.Option(help="Seconds that one step computes at the slowest hospital; without it the time is without computing."),
    ] = None,
    local_steps: Annotated[
        int, typer.Option(help="Of the local rhythm that is shown beside a study without one.", min=2, max=LOCAL_STEPS_MOST)
    ] = plan_rhythms.LOCAL_STEPS,
    home: Annotated[
        Path | None, typer.Option(help="The coordinator's folder, for the hospitals of its roster.", envvar=HOME_VARIABLE)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a study would send, cost and be able to show; nothing is sent or spent, and no folder is needed."""
    from server import plan as plans  # noqa: PLC0415  (scipy.stats takes most of a second, for this command only)
    from server import plan_shown  # noqa: PLC0415

    study, link = studies.read_toml(study_file), plan_rhythms.Link(mbit_per_s=link_mbit_s, round_s=round_s, step_s=step_s)
    if hospitals is None and home is not None:
        hospitals = _hospitals(Home(home), study)
    with plan_shown.waiting(beside):
        made = plans.plan(study, patients=patients, hospitals=hospitals)
        made["training"] |= plan_rhythms.compare(study, hospitals=made["hospitals"], link=link, local_steps=local_steps)
    if as_json:
        out.print_json(json.dumps(made, allow_nan=False))
        return
    plan_shown.show(made, console=out)
    plan_rhythms.show(made["training"], console=out)


run_commands.add(app)


def _hospitals(home: Home, study: Study) -> int:
    """Return how many hospitals a study is checked for: those of the roster, at least as many as a round of it needs."""
    enrolled = len(config.read_roster(home).names) if home.roster_file.exists() else 0
    return max(enrolled, exchange.fewest(study) + len(study.evaluation.unseen))


def _request(path: Path) -> Member:
    try:
        return enrolment.parse(files.read(path, most_bytes=enrolment.BYTES_MOST))
    except ConfigError as error:
        raise ConfigError(error.what if str(path) in error.what else f"{path}: {error.what}", action=error.action) from None


def main() -> None:
    """Entry point."""
    commands.run(app)
