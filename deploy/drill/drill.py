"""`make drill`: every failure of table.py against a federation of real processes, and a table of what it cost.

Needs root on Linux and the LIDC annotations, as the demo does. Drills follow one another in studies of one federation.
What is lost is judged twice: by the rounds during each drill, and by each study's figures, which must be an undisturbed one's.
"""

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common import commands, files, locks
from common.errors import MotetError
from deploy.demo import demo
from deploy.drill import verdict
from deploy.drill.federation import ENDS_S, READY_S, ROUND_S, SMALL_DISKS, STEPS, Federation, Proposed, federation
from deploy.drill.table import DRILLS, Drill
from deploy.drill.verdict import Figures

SETTLES_S = 6.0
TABLE_COLUMNS = 150
CLOCK_S = 0.01  # the journal's resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one drill did to the study; `wrong` is empty when it went as it must. All times are the journal's."""

    name: str
    done: str
    lasted_s: float
    rounds_meanwhile: int  # opened while it lasted
    rounds_lost: int
    pause_s: float  # longest time without any opened round
    good_after_s: float | None  # from the undo to the first round of all hospitals that no worse one follows
    within_s: float  # the limit of that
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
    started = time.monotonic()
    with locks.hold(folder.parent / f"{folder.name}.lock", busy="Drills run here already."):
        _clear(folder)
        with federation(folder) as (running, proposed):
            outcomes, wrong = run_all(wanted, running, proposed)
    seconds = round(time.monotonic() - started, 1)
    found = {"drills": [asdict(outcome) for outcome in outcomes], "studies": wrong, "seconds": seconds}
    files.write(folder / "drill.json", json.dumps(found, indent=1, sort_keys=True).encode())
    if options.json:
        demo.out.print_json(json.dumps(found))
    else:
        Console(width=max(demo.out.width, TABLE_COLUMNS)).print(_table(outcomes))
        demo.out.print("; ".join(wrong) or "Every study's figures are the undisturbed one's, replayed and audited.")
        demo.out.print(f"{seconds:.0f} s in all.")
    sys.exit(1 if wrong or any(outcome.wrong for outcome in outcomes) else 0)


def run_all(wanted: list[Drill], running: Federation, proposed: Proposed) -> tuple[list[Outcome], list[str]]:
    """Run an undisturbed study, then the drills, in as many studies as they take; return their outcomes and what is wrong.

    Long drills come first in each study, short ones fill what is left of it.
    """
    outcomes: list[Outcome] = []
    wrong: list[str] = []
    homes = [running.folder / name for name in demo.HOSPITALS]
    try:
        running.begin(proposed.undisturbed_hash)
        run = running.until_it_ends(timeout_s=ENDS_S)
        undisturbed = verdict.figures(run)
        wrong += verdict.wrong_with_pooled(run, homes, study=proposed.study)
        left = list(wanted)
        while left:
            fits = [drill for drill in left if _fits(drill, running)]
            if not fits:
                wrong += _end_study(running, undisturbed=undisturbed) if running.run is not None else []
                running.begin(proposed.study_hash)
                continue
            left.remove(drill := max(fits, key=lambda one: one.lasts_at_most_s))
            outcomes.append(one := run_one(drill, running))
            demo.out.print(f"{one.name}: {one.rounds_lost} lost, good after {one.good_after_s} s; {one.wrong or 'as it must'}")
        wrong += _end_study(running, undisturbed=undisturbed)
        wrong += verdict.wrong_with_ledgers(homes, roster_hash=json.loads((run / "result.json").read_bytes())["roster"])
    except (MotetError, OSError, subprocess.SubprocessError) as error:
        wrong.append(str(error))
    names = [drill.name for drill in DRILLS]
    return sorted(outcomes, key=lambda one: names.index(one.name)), wrong


def _fits(drill: Drill, running: Federation) -> bool:
    """Return whether a study runs now that lasts long enough for a drill and has what the drill needs."""
    return (
        not running.ended()
        and drill.lasts_at_most_s / ROUND_S < running.steps_left()
        and running.running.running[drill.needs].poll() is None
    )


def run_one(drill: Drill, running: Federation) -> Outcome:
    """Do one drill in the middle of a round and wait for good rounds afterwards; whatever goes wrong is in the outcome."""
    began = ended = mended = time.time()
    wrong: list[str | None] = []
    try:
        running.wait_for_good_round(since=began, timeout_s=READY_S)
        running.into_a_round()
        began = time.time()
        wrong.append(drill.act(running))
        time.sleep(drill.lasts_s)
        ended = time.time()
        wrong.append(drill.undo(running))
        mended = time.time()
        running.wait_for_good_round(since=mended, timeout_s=drill.good_within_s)
        time.sleep(SETTLES_S)  # what comes of it later belongs to it too
        running.wait_for_good_round(since=time.time(), timeout_s=drill.good_within_s)
    except (MotetError, OSError, subprocess.SubprocessError) as error:
        wrong.append(str(error))
    return _judge(drill, running, began=began, ended=ended, mended=mended, wrong=[text for text in wrong if text])


def _judge(drill: Drill, running: Federation, *, began: float, ended: float, mended: float, wrong: list[str]) -> Outcome:
    rounds = running.rounds()
    opened = [one["time"] for one in rounds if one["state"] == "opened"]
    meanwhile = sum(began < at <= ended for at in opened)
    lost = sum(one["state"] == "void" and one["time"] > began for one in rounds)
    around = [at for at in opened if at >= max((one for one in opened if one <= began), default=began)]
    bad = max((one["time"] for one in rounds if one["time"] > began and not running.good(one)), default=mended)
    good = [one["time"] for one in rounds if running.good(one) and one["time"] - one["seconds"] >= max(bad, mended) - CLOCK_S]
    after_s = round(good[0] - ended, 2) if good else None
    if lost > drill.lost_most:
        wrong.append(f"{lost} rounds were lost, {drill.lost_most} may be")
    if drill.goes_on and ended - began > 1 and meanwhile < 1:
        wrong.append("no round opened meanwhile")
    if after_s is not None and after_s > drill.good_within_s:
        wrong.append("too late")
    return Outcome(
        name=drill.name,
        done=drill.done,
        lasted_s=round(ended - began, 2),
        rounds_meanwhile=meanwhile,
        rounds_lost=lost,
        pause_s=round(max((later - earlier for earlier, later in itertools.pairwise(around)), default=0.0), 2),
        good_after_s=after_s,
        within_s=drill.good_within_s,
        wrong="; ".join(wrong),
    )


def _end_study(running: Federation, *, undisturbed: Figures) -> list[str]:
    """Let the study end by itself and return what is wrong with it."""
    run = running.until_it_ends(timeout_s=ENDS_S)
    return verdict.wrong_with(run, steps=STEPS, undisturbed=undisturbed)


def _clear(folder: Path) -> None:
    """Move an earlier result aside; what a killed run left mounted is unmounted."""
    for place in SMALL_DISKS:
        subprocess.run(["umount", "--lazy", folder / place], capture_output=True, check=False)
    if folder.exists() and not (folder / "drill.json").exists():
        shutil.rmtree(folder)
    elif folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"))


def _table(outcomes: list[Outcome]) -> Table:
    heads = ("drill", "done", "rounds meanwhile", "rounds lost", "longest pause s", "good again after s", "")
    table = Table(*heads, title="Drills")
    for one in outcomes:
        until = "-" if one.good_after_s is None else f"{one.good_after_s}"
        counts = (f"{one.rounds_meanwhile}", f"{one.rounds_lost}", f"{one.pause_s}")
        table.add_row(one.name, one.done, *counts, f"{until} (of {one.within_s:.0f})", one.wrong or "as it must")
    return table


if __name__ == "__main__":
    commands.run_function(main)
