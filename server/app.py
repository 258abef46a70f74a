"""The Flower ServerApp: runs the study that `motet-coordinator run` prepared, or goes on with it where it was killed."""

import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import locks
from common import study as studies
from common.errors import MotetError
from common.roster import Roster
from common.study import Study
from server import config
from server.config import Home
from server.exchange import Carrier
from server.journal import Journal
from server.lane import Lane
from server.messages import Invitations, MessageCarrier
from server.run import run_study
from server.stopping import Stoppable

POLL_S = 0.05
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

log = logging.getLogger("motet.coordinator")

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
    with locks.hold(home.run_lock(run), busy="This run is under way already."):
        try:
            with _carrier(grid, home, study=study, roster=roster, run=run, journal=journal) as carried:
                carrier = Stoppable(carrier=carried, folder=folder)
                run_study(study=study, roster=roster, key=config.identity_key(home), carrier=carrier, folder=folder, run=run)
        except KeyboardInterrupt:
            journal.write({"type": "stopped", "time": round(time.time(), 3)})
            log.info("the run was stopped")
        except MotetError as error:
            journal.write({"type": "failed", "time": round(time.time(), 3), "code": error.code, "what": str(error)})
            log.error("%s", error)  # noqa: TRY400  (the text says what to do; a traceback would not)
            raise
        except OSError as error:
            if error.errno in FULL:  # as if it had been killed: `serve` goes on with the run until there is room
                log.error("the coordinator's disk is full")  # noqa: TRY400  (a traceback would not help)
            else:
                journal.write({"type": "failed", "time": round(time.time(), 3), "code": "E-INTERNAL", "what": "OSError"})
            raise
        except Exception as error:
            what = type(error).__name__
            journal.write({"type": "failed", "time": round(time.time(), 3), "code": "E-INTERNAL", "what": what})
            raise


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
