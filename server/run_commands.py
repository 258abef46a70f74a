"""motet-coordinator run, stop, watch, status, report: a study's runs, from the first message to the report."""

import json
import secrets
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common import files
from common import study as studies
from common.errors import AlreadyRunning, ConfigError, NotSetUp
from common.locks import held, hold
from common.study import Study
from server import (
    config,
    door,
    evaluation_sections,
    exchange,
    follow,
    glance,
    keeper,
    page,
    plan_noise,
    state,
    stopping,
    superlink,
    watch,
)
from server.config import Home
from server.glance import Glance
from server.journal import Journal, how_ended
from server.options import AsJson, Folder, beside, out


def add(app: typer.Typer) -> None:
    """Add the commands to the coordinator's command line."""
    named: dict[str, Callable[..., None]] = {
        "run": run,
        "stop": stop_command,
        "watch": watch_command,
        "status": status,
        "report": report_command,
    }
    for name, command in named.items():
        app.command(name)(command)


def run(
    home: Folder,
    study_hash: Annotated[str, typer.Argument(help="The hash that `propose` printed.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Run a proposed study with `flwr run` and follow it to its result. Ctrl-C stops it for good."""
    made, said = Home(home), beside if as_json else out
    study, signed = _proposed(made, study_hash), config.read_roster(made)
    training, needed = set(signed.names) - set(study.evaluation.unseen), exchange.fewest(study)
    if len(training) < needed:
        apart = ", without the unseen ones," if study.evaluation.unseen else ""
        raise ConfigError(
            f"The roster{apart} has {len(training)} hospitals, a round of this study needs {needed}.",
            action="Enrol more, all of them in one call with --replace, or propose another study.",
        )
    plan_noise.check(study, hospitals=len(signed.names))  # the roster may be another than when the study was proposed
    if not held(home / "serve.lock"):
        raise NotSetUp("The SuperLink is not running.", action="Start `motet-coordinator serve` in another terminal.")
    with hold(made.lock, busy="A study of this coordinator runs already."):
        if any(keeper.at_work(made)):  # one that `serve` goes on with, and that nobody follows
            raise AlreadyRunning(
                "A study of this coordinator runs already.", action="`watch` shows it; wait for its end, or `stop` it."
            )
        name = f"{study_hash[:8]}{secrets.token_hex(4)}"
        folder = made.runs / name
        folder.mkdir(mode=0o700)
        files.write(folder / "study.json", study.canonical_bytes())
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            flower_run = superlink.submit(made, run=name)
        except BaseException:  # Flower may have taken it all the same
            stopping.stop(folder, lock=made.run_lock(name), end=lambda: None)
            raise

        def alive() -> bool:  # a run that `serve` adopted has another number in Flower, but holds its lock
            return held(made.run_lock(name)) or superlink.active(made, run_id=flower_run)

        def stop() -> bool:
            return stopping.stop(folder, lock=made.run_lock(name), end=lambda: superlink.stop(made, run_id=flower_run))

        try:
            follow.follow(folder, alive=alive, console=said)
        except KeyboardInterrupt:
            _interrupted(folder, stop=stop, said=said)
        except BaseException:
            stop()
            raise
    result, report = str(folder / "result.json"), str(folder / "report.html")
    if as_json:
        out.print_json(json.dumps({"run": name, "result": result, "report": report}))
        return
    out.print(f"Result: {result}\nReport: {report}", soft_wrap=True)


def _interrupted(folder: Path, *, stop: Callable[[], object], said: Console) -> None:
    """Stop a run and say how it ended; raises KeyboardInterrupt but where it was at its end and is done."""
    said.print("Stopping: the round under way ends, no other begins.")
    stop()
    said.print(stopping.told(folder), soft_wrap=True)
    if how_ended(Journal(folder / "journal.jsonl").life()) != "done":
        raise KeyboardInterrupt


def stop_command(
    home: Folder,
    run_name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's name; the one under way where it is left out.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Stop a run for good, also one that `serve` goes on with and nobody follows: its round ends, no other begins."""
    made = Home(home)
    config.read_settings(made)
    under_way = [*keeper.at_work(made), *keeper.unfinished(made)]
    folder = glance.find(made, run=run_name or next(iter(under_way), None))
    if folder.name not in under_way:
        raise NotSetUp(
            f"Run {folder.name} has not begun, or has ended.", action="See `motet-coordinator watch`; Ctrl-C stops `run`."
        )
    said = beside if as_json else out
    said.print(f"Stopping {folder.name}: the round under way ends, no other begins.", soft_wrap=True)
    stopped = stopping.stop(folder, lock=made.run_lock(folder.name), end=lambda: None)
    if as_json:
        told = {"stopped": stopped, "charged": stopping.charged(folder), "words": stopping.told(folder)}
        out.print_json(json.dumps({"run": folder.name, **told}))
        return
    out.print(stopping.told(folder), soft_wrap=True)


def watch_command(
    home: Folder,
    run_name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's name; the last one where it is left out.")
    ] = None,
    page_port: Annotated[
        int | None,
        typer.Option(
            "--page", metavar="PORT", help="Serve a read-only page on 127.0.0.1 instead; 0: a free port.", min=0, max=65535
        ),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show a run while it goes on; it may be watched from several places, and nothing is changed by it."""
    made = Home(home)
    config.read_settings(made)
    if page_port is not None:
        if as_json:
            raise ConfigError("A page is served, or JSON printed, not both.", action="The page has /state.json.")
        if run_name is not None:
            glance.find(made, run=run_name)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        page.serve(
            glance.newest(made, run=run_name),
            port=page_port,
            ready=lambda port: out.print(f"http://{page.LOOPBACK}:{port}/ (Ctrl-C ends it)"),
            stop=stop,
        )
        return
    glanced = Glance(glance.find(made, run=run_name))
    if as_json:
        out.print_json(json.dumps(state.plain(glanced.state(now=time.time()))))
        return
    newest = glance.newest(made, run=run_name)
    watch.watch(lambda: newest() or glanced.state(now=time.time()), console=out, newest=run_name is None)


def status(home: Folder, *, as_json: AsJson = False) -> None:
    """Say once how this coordinator and its last run stand; nothing is changed, nobody is asked."""
    made = Home(home)
    settings = config.read_settings(made)
    signed = config.read_roster(made) if made.roster_file.exists() else None
    last = glance.newest(made, run=None)()
    told: dict[str, Any] = {
        "federation": settings.federation,
        "address": settings.address,
        "serving": held(home / "serve.lock"),
        "door": door.running(door.folder(made)) if door.stands(settings) else None,
        "roster": signed.hash() if signed else None,
        "hospitals": list(signed.names) if signed else [],
        "run": state.plain(last) if last else None,
    }
    if as_json:
        out.print_json(json.dumps(told))
        return
    serving = f"serve runs, the SuperLink is at {settings.superlink}" if told["serving"] else "serve does not run"
    through = {None: "", True: "; the door is open", False: "; the door is closed"}[told["door"]]
    out.print(f"{settings.federation} at {settings.address}: {serving}{through}.", soft_wrap=True)
    out.print(
        f"Roster of {', '.join(signed.names)}: hash {signed.hash()}" if signed else "There is no roster yet.", soft_wrap=True
    )
    out.print(watch.drawn(last) if last else "There is no run yet.")


def report_command(
    home: Folder,
    run_name: Annotated[str | None, typer.Argument(help="A run's name; the last one where it is left out.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write a run's report again and print its main figures."""
    from server import report  # noqa: PLC0415  (scipy.stats takes most of a second, for this command only)

    made = Home(home)
    finished = sorted((path.parent for path in made.runs.glob("*/result.json")), key=lambda path: path.stat().st_mtime)
    wanted = [path for path in finished if run_name in {None, path.name}]
    if not wanted:
        config.read_settings(made)  # where there is no coordinator at all, that is said
        raise NotSetUp("There is no such finished run.", action="Run `motet-coordinator run HASH` first.")
    try:
        result: dict[str, Any] = json.loads((wanted[-1] / "result.json").read_bytes())
    except ValueError:
        raise ConfigError("The run's result.json is damaged.", action="Restore it from your backup.") from None
    newer = glance.unfinished_newer(made, than=wanted[-1]) if run_name is None else None
    if newer is not None and not as_json:
        phase = Glance(newer).state(now=time.time()).phase
        out.print(f"Run {newer.name} is newer and has no result ({phase}); this is run {wanted[-1].name}.", soft_wrap=True)
    report.render(result, out=wanted[-1] / "report.html")
    if as_json:
        out.print_json(json.dumps(result))
        return
    out.print(_figures(result))
    out.print(f"{wanted[-1] / 'report.html'}", soft_wrap=True)


def _figures(result: dict[str, Any]) -> Table:
    try:
        told = _told(result)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"The result has no main figures: it does not have the structure of result.json ({type(error).__name__}).",
            action="Restore it from your backup.",
        ) from None
    table = Table(title=escape(str(result["study"]["title"])), show_header=False)
    for name, value in told.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else escape(str(value)))
    return table


def _told(result: dict[str, Any]) -> dict[str, Any]:
    training, read = result["training"], result.get("private_gram", result)
    spent, (scored, value_of_model) = result.get("privacy", training), evaluation_sections.headline(training)
    return {
        "hospitals": ", ".join(result["hospitals"]),
        "patients in the statistics": read["patients"],
        "R² of the regression": read["ols"].get("r_squared", read["ols"].get("diagnosis")),
        f"held-out {scored}": value_of_model,
        "epsilon at delta": f"{spent['epsilon']} at {spent['delta']}",
        "seconds per secure sum": result["seconds"]["per_secure_sum"],
    }


def _proposed(home: Home, study_hash: str) -> Study:
    path = home.studies / f"{study_hash}.study.json"
    if not study_hash.isalnum() or not path.exists():
        raise NotSetUp("No such study was proposed.", action="Run `motet-coordinator propose study.toml` first.")
    return studies.parse(path.read_bytes())
