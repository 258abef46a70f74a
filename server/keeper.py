"""`motet-coordinator serve`: keeps SuperLink and executor running, and goes on with a study whose process was killed."""

import functools
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import locks
from common.errors import ConfigError, RecordDamaged
from common.processes import end
from common.roster import Roster
from server import config, nodes, stopping, superlink
from server.config import Home, Settings
from server.journal import Journal

POLL_S = 0.5
ORPHANED_S = 5.0  # a run that nobody holds for so long was killed
AGAIN_S, AGAIN_S_MOST = 5.0, 3600.0  # a run that dies before it opens a round is given longer and longer pauses
ROSTER_AGAIN_S = 5.0  # until a roster that could not be put in force is tried again

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
    orphans, seen, again = Orphans(home), _changed(home), 0.0
    say("Starting the SuperLink; this takes some seconds.")
    try:
        for name, begin in start.items():
            children[name] = begin()
        _match(home, settings, roster, say=say)
        say(f"SuperLink ready on {settings.superlink} for {', '.join(roster.names)}.")
        while not stop.wait(POLL_S):
            if (changed := _changed(home)) != seen and time.monotonic() > again:
                again = time.monotonic() + ROSTER_AGAIN_S
                seen = changed if _match_anew(home, settings, say=say) else seen
            for name, child in children.items():
                if child.poll() is not None:
                    log.warning(ENDED_EARLY[name], child.returncode)
                    end(child)
                    children[name] = _again(start[name], stop=stop)
            orphans.adopt(say=say)
    finally:
        for child in reversed(children.values()):
            end(child)


def _changed(home: Home) -> tuple[int, int]:
    """Return what tells one roster file from the next."""
    try:
        found = home.roster_file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _match(home: Home, settings: Settings, roster: Roster, *, say: Callable[[str], None]) -> None:
    """Let in the node keys of the roster and no other, and say what changed."""
    differs = nodes.match(home, settings, roster)
    for node in differs.strange:
        say(f"The node key of {node.name or 'a node without a name'} was taken away: the roster no longer names it.")
    for name in differs.taken_away:
        say(f"The node key of {name} was taken away once, and Flower takes no such key again. {nodes.MEND}")


def _match_anew(home: Home, settings: Settings, *, say: Callable[[str], None]) -> bool:
    """Take a roster that was signed meanwhile; return whether it is in force."""
    try:
        roster = config.read_roster(home)
        _match(home, settings, roster, say=say)
        say(f"There is a new roster: {', '.join(roster.names)}.")
    except ConfigError as error:
        say(f"The new roster is not in force yet: {error}")
        return False
    return True


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
    return (name for name in _begun(home) if not locks.held(home.run_lock(name)))


def at_work(home: Home) -> Iterator[str]:
    """Yield the runs that began, did not end, and that a process works on now; not one whose relays are being said goodbye."""
    return (name for name in _begun(home) if locks.held(home.run_lock(name)))


def _begun(home: Home) -> Iterator[str]:
    for journal in sorted(home.runs.glob("*/journal.jsonl")):
        seen = journal.stat()
        if _open_ended(journal, size_bytes=seen.st_size, modified_ns=seen.st_mtime_ns):
            yield journal.parent.name


@functools.lru_cache(maxsize=1024)
def _open_ended(journal: Path, *, size_bytes: int, modified_ns: int) -> bool:  # noqa: ARG001  (read again when it changed)
    """Tell whether a run began and did not end since it was last begun or resumed; never of a journal that is damaged."""
    try:
        read = Journal(journal)
        return bool(read.life()) and not read.ended()
    except (OSError, RecordDamaged):
        log.warning("the journal of run %s cannot be read; it is left alone", journal.parent.name)
        return False


class Orphans:
    """The runs that lost their process: since when, and how often one was handed on without opening a round."""

    def __init__(self, home: Home) -> None:
        self._home, self._since = home, dict[str, float]()
        self._begun = set[str]()  # handed on, and not seen at work since
        self._handed: dict[str, tuple[int, int]] = {}  # rounds on record at the last time, times in a row with no more of them

    def adopt(self, *, say: Callable[[str], None]) -> None:
        """Hand a run to Flower again when nobody has held it for a while, one after another: there is one lane for all."""
        now, left = time.monotonic(), set(unfinished(self._home))
        self._since = {name: self._since.get(name, now) for name in sorted(left)}
        for name in [name for name in self._begun if locks.held(self._home.run_lock(name))]:
            self._begun.discard(name)
            say(f"Run {name} goes on.")
        for name, since in self._since.items():
            if now - since > ORPHANED_S + self._pause_s(name) and not self._busy(now):
                stopped = stopping.mark(self._home.runs / name).exists()
                to = "to be stopped" if stopped else "where it stood"
                say(f"Run {name} lost its process; it is begun again {to}, which takes up to a minute.")
                self._begun.add(name)
                try:
                    superlink.submit(self._home, run=name)
                    self._since[name] = now + 60.0  # Flower takes its time to start a ServerApp
                    self._count(name)
                except (ConfigError, OSError) as error:
                    self._since[name] = time.monotonic()
                    log.warning("run %s could not be handed to the SuperLink: %s", name, type(error).__name__)

    def _busy(self, now: float) -> bool:
        """Tell whether a run is at work, or has just been handed on: another beside it would find its port taken and fail."""
        return any(since > now for since in self._since.values()) or any(map(locks.held, self._home.runs.glob("*/run.lock")))

    def _pause_s(self, name: str) -> float:
        _, times = self._handed.get(name, (0, 0))
        return min(AGAIN_S * 2.0 ** (times - 1), AGAIN_S_MOST) if times else 0.0

    def _count(self, name: str) -> None:
        rounds = len(Journal(self._home.runs / name / "journal.jsonl").rounds())
        before, times = self._handed.get(name, (-1, 0))
        self._handed[name] = rounds, times + 1 if rounds == before else 0
