"""`make drill`: every failure of table.py against a federation of real processes, and a table of what it cost.

Needs root on Linux and the LIDC annotations, as the demo does. What is lost is judged twice: by the rounds during each drill,
and at the end by the study's own result, which must equal the pooled computation, its replay and four audits.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from common import commands, files, locks
from common.audit import replay
from common.errors import MotetError
from deploy.demo import demo, proof
from deploy.demo.children import command
from deploy.drill.federation import SMALL_DISK, Federation, federation
from deploy.drill.table import DRILLS, Drill

FIRST_ROUND_S = 300
STUDY_ENDS_S = 1800
EXACT = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one drill did to the study; `wrong` is empty when it went as it must."""

    name: str
    done: str
    lasted_s: float
    rounds_meanwhile: int  # opened while it lasted
    rounds_lost: int
    seconds_until_good: float | None  # from the undo to a round of all hospitals
    wrong: str


def main() -> None:
    """Run the drills; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=demo.ROOT / "out" / "drill", help="folder of the results")
    parser.add_argument("--only", action="append", choices=[drill.name for drill in DRILLS], help="one drill; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON instead of a table")
    options = parser.parse_args()
    folder = options.out.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as Ctrl-C does
    wanted = [drill for drill in DRILLS if not options.only or drill.name in options.only]
    with locks.hold(folder.parent / f"{folder.name}.lock", busy="Drills run here already."):
        _clear(folder)
        with federation(folder) as running:
            running.wait_for_good_round(timeout_s=FIRST_ROUND_S)
            outcomes = [run(drill, running) for drill in wanted]
            verdict = _finish(running)
    found = {"drills": [asdict(outcome) for outcome in outcomes], "study": verdict}
    files.write(folder / "drill.json", json.dumps(found, indent=1, sort_keys=True).encode())
    if options.json:
        demo.out.print_json(json.dumps(found))
    else:
        demo.out.print(_table(outcomes))
        demo.out.print(f"The study afterwards: {verdict or 'equals the pooled computation, replayed and audited'}.")
    sys.exit(1 if verdict or any(outcome.wrong for outcome in outcomes) else 0)


def run(drill: Drill, running: Federation) -> Outcome:
    """Do one drill in the middle of a round and wait for a good round afterwards; whatever goes wrong is in the outcome."""
    started, first, opened, until_s = time.monotonic(), 0, 0, None
    wrong: list[str | None] = []
    try:
        running.wait_for_good_round(timeout_s=drill.good_within_s)
        running.into_a_round()
        first, started = len(running.rounds()), time.monotonic()
        wrong.append(drill.act(running))
        time.sleep(drill.lasts_s)
        opened = sum(one["state"] == "opened" for one in running.rounds()[first:])
        wrong.append(drill.undo(running))
        lasted_s = time.monotonic() - started
        until_s = round(running.wait_for_good_round(timeout_s=drill.good_within_s), 2)
    except (MotetError, OSError, subprocess.SubprocessError) as error:
        lasted_s = time.monotonic() - started
        wrong.append(str(error))
    lost = sum(one["state"] == "void" for one in running.rounds()[first:])
    if lost > drill.lost_most:
        wrong.append(f"{lost} rounds were lost, {drill.lost_most} may be")
    if drill.goes_on and drill.lasts_s and opened < 1:
        wrong.append("no round opened meanwhile")
    return Outcome(
        name=drill.name,
        done=drill.done,
        lasted_s=round(lasted_s, 2),
        rounds_meanwhile=opened,
        rounds_lost=lost,
        seconds_until_good=until_s,
        wrong="; ".join(text for text in wrong if text),
    )


def _finish(running: Federation) -> str:
    """Let the study end and check its result against pooled data, its replay and the audits; return what is wrong."""
    try:
        if running.running.running["run"].wait(STUDY_ENDS_S) != 0:
            return "the study did not end well"
        (folder,) = (path.parent for path in (running.coordinator / "runs").glob("*/result.json"))
        result = json.loads((folder / "result.json").read_bytes())
        homes = [running.folder / name for name in demo.HOSPITALS]
        pooled = proof.pooled_table(homes, study=running.study)
        differences = (proof.correlation_difference, proof.regression_difference)
        if max(difference(result, pooled, study=running.study) for difference in differences) > EXACT:
            return "the statistics differ from the pooled ones"
        if len(list(replay.replay(folder, roster_hash=result["roster"]))) != len(running.rounds()):
            return "the replay does not know every round"
        bundles = [home.with_suffix(".zip") for home in homes]
        for home, bundle in zip(homes, bundles, strict=True):
            command("motet-hospital", "bundle", "--home", home, bundle)
        command("motet-audit", "verify", *bundles, "--roster-hash", result["roster"])
    except subprocess.TimeoutExpired:
        return "the study did not end"
    except MotetError as error:
        return str(error)
    return ""


def _clear(folder: Path) -> None:
    """Move an earlier result aside; what a killed run left mounted is unmounted."""
    subprocess.run(["umount", "--lazy", folder / SMALL_DISK], capture_output=True, check=False)
    if folder.exists() and not (folder / "drill.json").exists():
        shutil.rmtree(folder)
    elif folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"))


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("drill", "done", "rounds meanwhile", "rounds lost", "good again after s", "", title="Drills")
    for one in outcomes:
        until = "-" if one.seconds_until_good is None else f"{one.seconds_until_good}"
        table.add_row(one.name, one.done, f"{one.rounds_meanwhile}", f"{one.rounds_lost}", until, one.wrong or "as it must")
    return table


if __name__ == "__main__":
    commands.run_function(main)
