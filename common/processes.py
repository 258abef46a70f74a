"""Children: Flower's environment, a start that no signal tears, and an end for every process that was started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

END_S = 10.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def flower_environment(home: Path, *, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a Flower process: no telemetry, no update check, quick polls, private files."""
    return {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "FLWR_HOME": str(home.absolute()),
        "PATH": f"{program('python').parent}{os.pathsep}{os.environ.get('PATH', '')}",
        **extra,
    }


def program(name: str) -> Path:
    """Return a program of this installation."""
    return Path(sys.executable).parent / name


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep SIGINT and SIGTERM until the end of the block, so that no child is started without being noted. Main thread only."""
    kept: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: kept.append(number)) for number in stops}
    try:
        yield
    finally:
        for number in stops:
            signal.signal(number, before[number])
    if kept:
        signal.raise_signal(kept[0])


def end_with_parent() -> None:
    """Let the calling process be told SIGTERM when the thread that started it is gone: for Popen's preexec_fn, on Linux.

    A supervisor that was killed leaves nothing running that its next life would collide with. Elsewhere it does nothing.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it started: first kindly, then for certain. The child must lead a session of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(number)
        try:
            child.wait(END_S)
            break
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # grandchildren that outlived it
