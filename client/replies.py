"""How long a hospital keeps the replies that it has sent, for a coordinator that was killed and asks for the same bytes again.

A coordinator goes on with a run wherever it stood, and an upload that a power cut spoiled on its disk is asked for again, also
of an early round. So no reply of a run goes while that run may go on: each kept one is an answer without another charge. A
clock that is wrong cannot take those of the run that was charged last, until the coordinator closes it.
"""

import contextlib
import logging
from pathlib import Path
from typing import Final

from client import session
from common.errors import SetupMissing

DAY_S: Final = 86_400
CLOSED_DAYS: Final = 7  # the coordinator has every round and only its result to make, of uploads that it has
OPEN_DAYS: Final = 90  # since the last answer: a coordinator that is away for so long begins anew

log = logging.getLogger("motet.vault")


def clear(folder: Path, *, now: float, last: str | None) -> int:
    """Delete the replies in `folder` of runs that nobody goes on with any more, and return how many.

    Those are runs that the coordinator closed CLOSED_DAYS ago, and runs without an answer for OPEN_DAYS but for `last`, the one
    that was charged last. `now`: Unix time. What a run's state says stays: a request that comes after all is refused, never
    answered with other bytes.
    """
    found: dict[str, list[Path]] = {}
    for path in folder.glob("*.reply"):
        if session.RUN.fullmatch(run := path.name.partition("-")[0]):
            found.setdefault(run, []).append(path)
    cleared = 0
    for run, replies in found.items():
        with contextlib.suppress(OSError):
            closed = _closed(folder, run)
            days = CLOSED_DAYS if closed else OPEN_DAYS
            if (closed or run != last) and now - _touched(folder, run, replies) > days * DAY_S:
                for path in replies:
                    path.unlink()
                cleared += len(replies)
    if cleared:
        log.info("replies-cleared", extra={"objects": cleared})
    return cleared


def _touched(folder: Path, run: str, replies: list[Path]) -> float:
    """Return when the run was last answered or closed; a state that is gone tells by its replies."""
    state = session.state_path(folder, run=run)
    return state.stat().st_mtime if state.exists() else max(path.stat().st_mtime for path in replies)


def _closed(folder: Path, run: str) -> bool:
    with contextlib.suppress(SetupMissing):
        return session.load(folder, run=run).closed()
    return False
