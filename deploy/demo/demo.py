"""`make demo`: a coordinator and four hospitals on this machine, real processes over TLS, from DICOM to an audited report.

It uses the same commands that people use; only the proof at the end looks at what a hospital keeps to itself.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from common import commands, files, locks, ports
from common import study as studies
from common.errors import ConfigError
from common.processes import program
from common.study import Study
from deploy.demo import cohort, proof
from deploy.demo.children import Children, children, command, together
from server import csvs, report

ROOT = Path(__file__).resolve().parents[2]
HOSPITALS = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
READY_S = 300
PATIENTS_MIN = 3
EPSILON_CAP = 10
out = Console(highlight=False)


def main() -> None:
    """Run the demo; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo", help="folder of the results")
    parser.add_argument("--study", type=Path, default=Path(__file__).parent / "study.toml", help="the study to run")
    parser.add_argument("--patients", type=int, default=65, help="patients per hospital")
    parser.add_argument("--seed", type=int, default=1, help="of the rendered scans; nothing private is ever seeded")
    parser.add_argument(
        "--door", action="store_true", help="hospitals reach the coordinator by nginx alone, as in deploy/README.md"
    )
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as Ctrl-C does
    with locks.hold(options.out.parent / f"{options.out.name}.lock", busy="A demo runs here already."):
        demo(options.out.absolute(), study_file=options.study, patients=options.patients, seed=options.seed, door=options.door)


def demo(folder: Path, *, study_file: Path, patients: int, seed: int, door: bool) -> None:
    """Run everything into `folder`; an earlier result there is moved aside, not overwritten."""
    started = time.monotonic()
    study = studies.read_toml(study_file)
    if folder.exists() and not (folder / "report.html").exists():
        shutil.rmtree(folder)
        out.print(f"An unfinished run in {os.path.relpath(folder)} was removed.")
    if folder.exists():
        kept = folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        folder.rename(kept)
        out.print(f"An earlier result was moved to {os.path.relpath(kept)}.")
    (folder / "logs").mkdir(parents=True)
    scans = folder.parent / f"{folder.name}-scans" / f"{cohort.VERSION}-{patients}-{seed}"
    with children(folder / "logs", console=out) as running:
        with _stage("1 of 6  scans, rendered from LIDC lesions", total=4 * patients) as progress:
            _render(scans, patients=patients, seed=seed, progress=progress)
        with _stage("2 of 6  enrolment, approvals", total=5) as progress:
            coordinator = folder / "coordinator"
            address, lane, superlink = (f"127.0.0.1:{ports.free()}" for _ in range(3))
            behind = ("--superlink", superlink) if door else ()
            study_hash = _enrol(
                coordinator, scans, study, study_file=study_file, address=address, lane=lane, behind=behind, progress=progress
            )
        with _stage("3 of 6  vaults read the scans, SuperNodes", total=100) as progress:
            if door:
                running.start("door", "motet-coordinator", "door", "--home", coordinator)
            _start(running, coordinator, address=address, lane=address if door else lane, progress=progress)
        out.print("4 of 6  the study: pair keys, statistics, training, evaluation")
        _run(coordinator, study_hash)
        with _stage("5 of 6  bundles, report", total=5) as progress:
            _collect(coordinator, folder, progress=progress)
    with _stage("6 of 6  proof against pooled data, audit", total=2) as progress:
        verdict = _prove(folder, study, progress=progress, started=started)
    out.print(_summary(folder, study=study))
    sys.exit(0 if verdict else 1)


@contextmanager
def _stage(title: str, *, total: int) -> Iterator["_Bar"]:
    columns = (TextColumn(title), BarColumn(bar_width=16), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=out) as shown:
        bar = _Bar(shown, total)
        yield bar
        bar(total, total)


class _Bar:
    """A bar whose estimate follows from the rate so far; nothing is said before there is a rate."""

    def __init__(self, shown: Progress, total: int) -> None:
        self._shown, self._started = shown, time.monotonic()
        self._task = shown.add_task("", total=total, left="")

    def __call__(self, done: float, total: float) -> None:
        passed = time.monotonic() - self._started
        left = f"about {passed * (total - done) / done:.0f} s left" if 0 < done < total and passed > 2 else ""
        self._shown.update(self._task, completed=done, total=total, left=left)


def _render(scans: Path, *, patients: int, seed: int, progress: _Bar) -> None:
    if not scans.exists():
        scans.parent.mkdir(exist_ok=True)
        cohort.write_cohort(scans, hospitals=HOSPITALS, patients_per_hospital=patients, seed=seed, progress=progress)


def _enrol(
    coordinator: Path,
    scans: Path,
    study: Study,
    *,
    study_file: Path,
    address: str,
    lane: str,
    behind: tuple[str, ...] = (),
    progress: _Bar,
) -> str:
    folder, privacy = coordinator.parent, study.privacy
    command(
        "motet-coordinator", "init", "--home", coordinator, "--name", "coordinator", "--federation", "lidc-demo",
        "--address", address, "--lane", lane, *behind,
    )  # fmt: skip
    progress(1, 5)
    together([
        ("motet-hospital", "init", "--home", folder / name, "--name", name, "--scans", scans / name / "scans",
         "--clinical", scans / name / "clinical.csv", "--epsilon-cap", EPSILON_CAP, "--delta-cap", privacy.delta,
         "--hospitals-min", 3, "--colluders-min", 1, "--patients-min", PATIENTS_MIN,
         "--exact-releases-max", 2 + len(study.statistics.analyses))
        for name in HOSPITALS
    ])  # fmt: skip
    progress(2, 5)
    requests = [folder / f"{name}.enrolment.json" for name in HOSPITALS]
    together(
        [
            ("motet-hospital", "enrol", "--home", folder / name, request)
            for name, request in zip(HOSPITALS, requests, strict=True)
        ]
    )
    progress(3, 5)
    roster = json.loads(command("motet-coordinator", "enrol", "--home", coordinator, *requests, "--json"))
    proposed = json.loads(command("motet-coordinator", "propose", "--home", coordinator, study_file, "--json"))
    for kind, file in (("--roster", roster["roster"]), ("--study", proposed["study"])):
        wanted = roster["hash"] if kind == "--roster" else proposed["hash"]
        together([("motet-hospital", "approve", "--home", folder / name, kind, file, "--hash", wanted) for name in HOSPITALS])
        progress(4, 5)
    return str(proposed["hash"])


def _start(running: Children, coordinator: Path, *, address: str, lane: str, progress: _Bar) -> None:
    folder = coordinator.parent
    running.start("superlink", "motet-coordinator", "serve", "--home", coordinator)
    for name in HOSPITALS:
        running.start(f"{name}-vault", "motet-hospital", "vault", "--home", folder / name)
    waiting = list(HOSPITALS)
    until = time.monotonic() + READY_S
    while waiting:
        enrolled = "SuperLink ready" in running.said("superlink")  # before that it knows no hospital's node key
        for name in [name for name in waiting if enrolled and "vault ready" in running.said(f"{name}-vault")]:
            running.start(
                f"{name}-relay", "motet-hospital", "relay", "--folder", folder / name / "relay", "--superlink", address,
                "--lane", lane, "--ca", coordinator / "certificates" / "ca.crt",
            )  # fmt: skip
            waiting.remove(name)
        progress(sum(_read_part(running.said(f"{name}-vault")) for name in HOSPITALS) * 24, 100)
        for name in ("superlink", *(f"{name}-vault" for name in waiting)):
            if running.running[name].poll() is not None or time.monotonic() > until:
                running.wait_for(name, "ready", timeout_s=0.1)
        time.sleep(0.2)
    running.wait_for("superlink", "SuperLink ready", timeout_s=READY_S)


def _read_part(said: str) -> float:
    lines = [line for line in said.splitlines() if line.startswith("reading scans: ")]
    if "vault ready" in said:
        return 1.0
    if not lines:
        return 0.0
    words = lines[-1].split()
    return int(words[2]) / max(1, int(words[4]))


def _run(coordinator: Path, study_hash: str) -> None:
    done = subprocess.run([program("motet-coordinator"), "run", "--home", coordinator, study_hash], check=False)
    if done.returncode != 0:
        raise ConfigError("The study did not end well.", action=f"Read the logs in {coordinator.parent / 'logs'}.")


def _collect(coordinator: Path, folder: Path, *, progress: _Bar) -> None:
    together([("motet-hospital", "bundle", "--home", folder / name, folder / f"{name}.bundle.zip") for name in HOSPITALS])
    progress(4, 5)
    (run,) = (path.parent for path in (coordinator / "runs").glob("*/result.json"))
    for name in ("result.json", "model.safetensors"):
        shutil.copyfile(run / name, folder / name)


def _prove(folder: Path, study: Study, *, progress: _Bar, started: float) -> bool:
    result = json.loads((folder / "result.json").read_bytes())
    pooled = proof.pooled([folder / name for name in HOSPITALS], study=study)
    result["correlation"]["max_abs_diff_vs_pooled"] = proof.correlation_difference(result, pooled, study=study)
    result["ols"]["max_rel_diff_vs_statsmodels"] = proof.regression_difference(result, pooled, study=study)
    result["linear"]["max_rel_diff_vs_statsmodels"] = proof.analyses_difference(result, pooled)
    progress(1, 2)
    bundles = [str(folder / f"{name}.bundle.zip") for name in HOSPITALS]
    done = subprocess.run(
        [program("motet-audit"), "verify", *bundles, "--roster-hash", result["roster"], "--json"],
        capture_output=True,
        check=False,
    )
    verdicts = json.loads(done.stdout)
    result["audit"] = {"verified": done.returncode == 0, "exit_code": done.returncode, "verdicts": verdicts}
    for verdict in verdicts:
        if verdict["holds"]:
            result["hospital_epsilon"][verdict["hospital"]]["cap"] = verdict["epsilon_cap"]
    result["seconds"]["total"] = round(time.monotonic() - started, 1)
    files.write(folder / "result.json", json.dumps(result, indent=1, sort_keys=True).encode())
    csvs.write(result, folder=folder / "tables")
    report.render(result, out=folder / "report.html")
    return done.returncode == 0


def _summary(folder: Path, *, study: Study) -> Table:
    result = json.loads((folder / "result.json").read_bytes())
    training = result["training"]
    table = Table(title="Motet demo", show_header=False)
    for name, value in (
        ("hospitals", f"{len(result['hospitals'])}, {result['patients']} patients in the statistics"),
        ("correlation, federated against pooled", f"largest difference {result['correlation']['max_abs_diff_vs_pooled']:.1e}"),
        (
            "OLS, federated against statsmodels",
            f"largest relative difference {result['ols']['max_rel_diff_vs_statsmodels']:.1e}",
        ),
        (
            "ANCOVA, robust errors, hospital effects, likewise",
            f"largest relative difference {result['linear']['max_rel_diff_vs_statsmodels']:.1e}",
        ),
        ("CNN on held-out patients", f"AUC {training['auc'] or 0:.3f} ({training.get('held_out_patients', 0)} patients)"),
        ("privacy of training, per patient", f"epsilon {training['epsilon']} at delta {training['delta']}, cap {EPSILON_CAP}"),
        ("steps", f"{training['steps']}, one secure sum each"),
        ("audit of four bundles", "verified" if result["audit"]["verified"] else "NOT VERIFIED"),
        ("one secure sum", f"{result['seconds']['per_secure_sum']} s, by {study.carrier}"),
        ("time", f"{result['seconds']['total']:.0f} s"),
        ("look at", os.path.relpath(folder / "report.html")),
    ):
        table.add_row(name, str(value))
    return table


if __name__ == "__main__":
    commands.run_function(main)
