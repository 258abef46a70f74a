"""The demo's child processes: each in a session of its own, its output in a log, every one ended on the way out."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from common.errors import ConfigError
from common.processes import end, program, uninterrupted

POLL_S = 0.1
COMMAND_S = 120


@dataclass
class Children:
    """What runs now, by name, and the folder of its logs."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: str, *arguments: object) -> None:
        """Start one of Motet's commands that keeps running."""
        with (self.logs / f"{name}.log").open("wb") as log, uninterrupted():
            self.running[name] = subprocess.Popen(
                [program(command), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, name: str, text: str, *, timeout_s: float) -> None:
        """Wait until a child printed `text`; raises ConfigError with its last line when it ends first or is late."""
        until = time.monotonic() + timeout_s
        while text not in (said := self.said(name)):
            if self.running[name].poll() is not None or time.monotonic() > until:
                last = (said.strip().splitlines() or ["nothing"])[-1]
                raise ConfigError(f"{name} did not get ready; it said: {last}", action=f"Read {self.logs / f'{name}.log'}.")
            time.sleep(POLL_S)

    def said(self, name: str) -> str:
        """Return what a child printed so far."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def end_all(self) -> None:
        """End every child: the relays while the SuperLink still answers, then the rest, the last started first.

        A SuperNode that cannot sign off tries again and again until it is killed. An interruption meanwhile waits for the end:
        every child leads a session of its own, and whoever was not ended yet would outlive this process.
        """
        relays = [child for name, child in self.running.items() if name.endswith("-relay")]
        with uninterrupted():
            for those in (relays, [child for child in self.running.values() if child not in relays]):
                for child in reversed(those):
                    if child.poll() is None:
                        child.terminate()
                for child in reversed(those):
                    end(child)


@contextmanager
def children(logs: Path, *, console: Console) -> Iterator[Children]:
    """Give a place for children, and end them all on success, failure and Ctrl-C."""
    kept = Children(logs=logs)
    try:
        yield kept
    except KeyboardInterrupt:
        console.print(f"\nInterrupted: ending {len(kept.running)} processes. Results of earlier runs stay where they are.")
        raise
    finally:
        kept.end_all()


def command(name: str, *arguments: object) -> str:
    """Run one of Motet's commands to its end and return what it printed; raises ConfigError when it fails."""
    done = subprocess.run([program(name), *map(str, arguments)], capture_output=True, check=False, timeout=COMMAND_S)
    if done.returncode != 0:
        raise ConfigError(f"{name} {arguments[0]} failed: {done.stderr.decode().strip()}", action="See above.")
    return done.stdout.decode()


def together(calls: Sequence[Sequence[object]]) -> None:
    """Run several of Motet's commands side by side; raises ConfigError when one fails."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for call in calls:
            with uninterrupted():
                started.append(
                    subprocess.Popen(
                        [program(str(call[0])), *map(str, call[1:])], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                    )
                )
        for call, child in zip(calls, started, strict=True):
            _, error = child.communicate(timeout=COMMAND_S)
            if child.returncode != 0:
                raise ConfigError(f"{call[0]} {call[1]} failed: {error.decode().strip()}", action="See above.")
    finally:
        for child in started:
            child.kill()
