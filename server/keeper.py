"""`motet-coordinator serve`: keeps SuperLink and executor running, and goes on with a study whose process was killed."""

import functools
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import locks
from common.errors import ConfigError
from common.processes import end
from common.roster import Roster
from server import superlink
from server.config import Home, Settings
from server.journal import Journal

POLL_S = 0.5
ORPHANED_S = 5.0  # a run that nobody holds for so long was killed
ENDED = frozenset({"done", "failed", "stopped"})

ENDED_EARLY = {  # the log shows templates of ours, and of what is filled in only numbers and codes
    "superlink": "the SuperLink ended (exit code %s); it is started again",
    "superexec": "the executor ended (exit code %s); it is started again",
}

log = logging.getLogger("motet.coordinator")
Start = Callable[[], subprocess.Popen[bytes]]


def keep(home: Home, settings: Settings, roster: Roster, *, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Serve until `stop` is set; raises PortInUse, or ConfigError when the SuperLink does not come up."""
    start: dict[str, Start] = {
        "superlink": lambda: superlink.start(home, settings),
        "superexec": lambda: superlink.start_executor(home, settings),
    }
    children: dict[str, subprocess.Popen[bytes]] = {}
    orphaned: dict[str, float] = {}
    try:
        for name, begin in start.items():
            children[name] = begin()
        superlink.register(home, roster)
        say(f"SuperLink ready on {settings.superlink} for {', '.join(roster.names)}.")
        while not stop.wait(POLL_S):
            for name, child in children.items():
                if child.poll() is not None:
                    log.warning(ENDED_EARLY[name], child.returncode)
                    end(child)
                    children[name] = _again(start[name], stop=stop)
            _adopt(home, orphaned, say=say)
    finally:
        for child in reversed(children.values()):
            end(child)


def _again(begin: Start, *, stop: threading.Event) -> subprocess.Popen[bytes]:
    while True:
        try:
            return begin()
        except ConfigError as error:
            log.warning("%s", error)
            if stop.wait(5.0):
                raise


def unfinished(home: Home) -> Iterator[str]:
    """Yield the runs that began, did not end, and that no process works on now."""
    for journal in sorted(home.runs.glob("*/journal.jsonl")):
        name = journal.parent.name
        seen = journal.stat()
        if _open_ended(journal, size_bytes=seen.st_size, modified_ns=seen.st_mtime_ns) and not locks.held(home.run_lock(name)):
            yield name


@functools.lru_cache(maxsize=1024)
def _open_ended(journal: Path, *, size_bytes: int, modified_ns: int) -> bool:  # noqa: ARG001  (read again when it changed)
    """Tell whether a run began and did not end since it was last begun or resumed; never of a journal that is damaged."""
    try:
        kinds = [str(event["type"]) for event in Journal(journal).events()]
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("the journal of run %s cannot be read; it is left alone", journal.parent.name)
        return False
    last = max((at for at, kind in enumerate(kinds) if kind in {"start", "resumed"}), default=0)
    return bool(kinds) and not ENDED & set(kinds[last:])


def _adopt(home: Home, orphaned: dict[str, float], *, say: Callable[[str], None]) -> None:
    now = time.monotonic()
    left = set(unfinished(home))
    for name in set(orphaned) - left:
        del orphaned[name]
    for name in left:
        if now - orphaned.setdefault(name, now) > ORPHANED_S:
            say(f"Run {name} lost its process; it goes on at the round where it stood.")
            orphaned[name] = now + 60.0  # Flower takes its time to start a ServerApp
            try:
                superlink.submit(home, run=name)
            except (ConfigError, OSError, subprocess.TimeoutExpired) as error:
                log.warning("run %s could not be handed to the SuperLink: %s", name, type(error).__name__)
