"""How the process that works on a run ends, in the run's journal: failed, stopped, or as if it had been killed."""

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from common.errors import InternalError, MotetError, RecordDamaged
from server import stopping
from server.journal import Journal

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

log = logging.getLogger("motet.coordinator")


@contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Write into the journal of the run in `folder` why what is inside ended early, and raise it again, but for a stop.

    An interruption that nobody's mark asked for (Flower ends its processes when `serve` is gone) and a full disk leave the
    journal as a kill would: `serve` goes on with the run. A stop that was asked for ends without an error. A run ends once:
    what `stop` wrote meanwhile stays.
    """
    journal = Journal(folder / "journal.jsonl")
    try:
        yield
    except KeyboardInterrupt:
        if not stopping.mark(folder).exists():
            log.warning("the run was interrupted; `serve` goes on with it")
            raise
        journal.write_while_open({"type": "stopped", "time": round(time.time(), 3)})
        log.info("the run was stopped")
    except MotetError as error:
        _failed(journal, code=error.code, what=str(error))
        log.error("%s", error)  # noqa: TRY400  (the text says what to do; a traceback would not)
        raise
    except OSError as error:
        if error.errno not in FULL:
            _failed(journal, code=InternalError.code, what="OSError")
        else:
            log.error("the coordinator's disk is full")  # noqa: TRY400  (a traceback would not help)
        raise
    except Exception as error:
        _failed(journal, code=InternalError.code, what=type(error).__name__)
        raise


def _failed(journal: Journal, *, code: str, what: str) -> None:
    event = {"type": "failed", "time": round(time.time(), 3), "code": code, "what": what}
    try:
        journal.write_while_open(event)
    except RecordDamaged:  # it may be why
        journal.write(event)
