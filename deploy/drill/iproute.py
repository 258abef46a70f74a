"""Commands of iproute2, and the names of namespaces: a run's own, and those that killed runs left behind."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from common.errors import ConfigError

NETNS = Path("/run/netns")
_NAME = re.compile(r"motet-(\d+)-(\d+)-\d+-[a-z0-9-]+")  # process, its start, which network of it, whose
_made = itertools.count()


def new_prefix() -> str:
    """Return the beginning of the names of a new network's namespaces; it names this process, so that leftovers are known."""
    return f"motet-{os.getpid()}-{started(os.getpid())}-{next(_made)}"


def missing() -> str:
    """Return why no namespaces can be made here, in one sentence; empty when they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "Network namespaces need root on Linux."
    if not (shutil.which("ip") and shutil.which("tc")):
        return "Network namespaces need ip and tc (iproute2)."
    if not Path("/dev/net/tun").exists():
        return "The link emulator needs /dev/net/tun."
    probe = f"{new_prefix()}-probe"
    if not tries("ip", "netns", "add", probe):
        return "This machine does not let root make network namespaces."
    delete(probe)
    return ""


def remove_leftovers() -> list[str]:
    """Remove the namespaces of drills whose process is gone, end what runs in them, and return their names."""
    listed = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()]
    found = [
        name for name in listed if (match := _NAME.fullmatch(name)) and started(int(match[1])) != int(match[2])
    ]  # fmt: skip
    for name in found:
        delete(name)
    return found


def started(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def delete(namespace: str) -> None:
    """End what runs in a namespace and remove it; one that is not there is no error."""
    for _ in range(3):  # a process may start another one while it is being ended
        asked = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
        for pid in asked.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if not asked.stdout.split():
            break
    tries("ip", "netns", "delete", namespace)


def batch(namespace: str, *lines: str) -> None:
    """Run lines of `ip -batch` inside a namespace; raises ConfigError."""
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ConfigError(f"A drill's network could not be set: {done.stderr.strip()[:300]}.", action="Is iproute2 complete?")


def run(*words: str) -> str:
    """Run a command and return what it printed; raises ConfigError."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"{words[0]} failed: {done.stderr.strip()[:300]}.", action="Is iproute2 complete, and are you root?")
    return done.stdout


def tries(*words: str) -> bool:
    """Run a command and return whether it went well."""
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
