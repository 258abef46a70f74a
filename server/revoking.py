"""A hospital is taken off the signed roster; studies that run with the old one are stopped first."""

from common import files, locks, roster
from common.errors import ConfigError
from server import config, keeper, stopping
from server.config import Home, Settings


def revoke(home: Home, settings: Settings, *, hospital: str) -> list[str]:
    """Sign the roster without `hospital` and return the runs that were stopped for it.

    Raises ConfigError, and changes nothing, where the roster does not name it or fewer than two hospitals would be left.
    """
    before = config.read_roster(home)
    if hospital not in before.names:
        raise ConfigError("The roster does not name this hospital.", action=f"It names {', '.join(before.names)}.")
    members = tuple(member for member in before.members if member.name != hospital)
    if len(members) < roster.MEMBERS_FEWEST:
        raise ConfigError(
            "A roster needs two hospitals.",
            action="Stop `serve` and the door, and set up a new federation when there are others.",
        )
    after = roster.sign(
        federation=settings.federation, coordinator=settings.name, key=config.identity_key(home), members=members
    )
    found = [path.parent.name for path in sorted(home.runs.glob("*/run.lock")) if locks.held(path)]
    found += [name for name in keeper.unfinished(home) if name not in found]
    stopped = [name for name in found if stopping.stop(home.runs / name, lock=home.run_lock(name), end=lambda: None)]
    files.write(home.roster_file, after.bytes())
    return stopped
