"""The Flower ServerApp: runs the study that `motet-coordinator run` prepared, or goes on with it where it was killed."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import locks
from common import study as studies
from common.roster import Roster
from common.study import Study
from server import config, ending
from server.config import Home
from server.exchange import Carrier
from server.journal import Journal
from server.lane import Lane
from server.messages import Invitations, MessageCarrier
from server.run import run_study
from server.stopping import Stoppable

POLL_S = 0.05

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study in this coordinator's folder; one process at a time."""
    home = config.Home(Path(os.environ["MOTET_COORDINATOR"]))
    run = str(context.run_config["run"])
    folder = home.runs / run
    study = studies.parse((folder / "study.json").read_bytes())
    roster = config.read_roster(home)
    journal = Journal(folder / "journal.jsonl")
    with (
        locks.hold(home.run_lock(run), busy="This run is under way already."),
        ending.recorded(folder),
        _carrier(grid, home, study=study, roster=roster, run=run, journal=journal) as carried,
    ):
        carrier = Stoppable(carrier=carried, folder=folder)
        run_study(study=study, roster=roster, key=config.identity_key(home), carrier=carrier, folder=folder, run=run)


@contextmanager
def _carrier(grid: Grid, home: Home, *, study: Study, roster: Roster, run: str, journal: Journal) -> Iterator[Carrier]:
    if study.carrier == "message":
        yield MessageCarrier(grid, roster.names, patience_s=study.patience_s)
        return

    def heard(hospital: str, state: str) -> None:
        journal.write({"type": "link", "time": round(time.time(), 3), "hospital": hospital, "state": state})

    lane = Lane(
        run=run,
        roster=roster,
        listen=config.read_settings(home).lane,
        key=home.keys / "server.key",
        certificate=home.certificates / "server.crt",
        heard=heard,
    )
    invitations = Invitations(grid, roster.names, run=run, patience_s=study.patience_s)
    try:
        end = time.monotonic() + study.patience_s
        here = Stoppable(carrier=lane, folder=home.runs / run)
        while set(roster.names) - here.present() and time.monotonic() < end:
            time.sleep(POLL_S)
        yield lane
    finally:
        lane.close()
        invitations.close()
