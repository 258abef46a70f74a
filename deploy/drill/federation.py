"""A federation of real processes in namespaces, made by the demo's own commands; its study runs on while it is disturbed."""

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from common import study as studies
from common.errors import ConfigError, HospitalMissing
from common.processes import program, uninterrupted
from deploy.demo import demo
from deploy.demo.children import Children
from deploy.drill.clock import Clock
from deploy.drill.namespaces import COORDINATOR, Network, Topology, network
from deploy.drill.tap import Tap
from server.journal import Journal

PORT = 18443
PATIENTS = 24
SEED = 2
READY_S = 60
POLL_S = 0.05
LIVES_S = 8  # a relay that is up for so long was let in
SMALL_DISK = "hosp-d"  # its folder is a file system of its own, which a drill can fill
CLOCKED = "hosp-b"  # its processes have a wall clock of their own
TAPPED = "hosp-a"
DISK_MIB = 512
# The demo's study, made long: (what demo/study.toml says, what a drill needs). Noise is high because there are many steps.
CHANGES: Final = (
    ("patience_s = 90", "patience_s = 30"), ("steps = 8", "steps = 400"), ("noise_multiplier = 4", "noise_multiplier = 60"),
    ("patients_declared = 190", "patients_declared = 44"), ("held_out_fraction = 0.28", "held_out_fraction = 0.5"),
    ("rounds_void_allowed = 2", "rounds_void_allowed = 60"),
)  # fmt: skip


@dataclass
class Placed(Children):
    """The demo's children, each started in the namespace of the party that its name begins with."""

    net: Network = field(kw_only=True)
    clock: Clock = field(kw_only=True)
    calls: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @override
    def start(self, name: str, command: str, *arguments: object) -> None:
        self.calls[name] = (command, *map(str, arguments))
        log, place = self.logs / f"{name}.log", self.place(name)
        if log.exists():
            log.rename(log.with_name(f"{name}.{time.time_ns()}.log"))
        environment = {**os.environ, **(self.clock.environment if place == CLOCKED else {})}
        with log.open("wb") as file, uninterrupted():
            self.running[name] = self.net.run_in(
                place,
                [program(command), *self.calls[name][1:]],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def again(self, name: str) -> None:
        """Start a child that has ended with the words that it was started with."""
        self.running[name].wait(READY_S)
        command, *arguments = self.calls[name]
        self.start(name, command, *arguments)

    def place(self, name: str) -> str:
        """Return the party that a child belongs to."""
        return next((one for one in self.net.topology.hospitals if name.startswith(one)), COORDINATOR)


@dataclass(kw_only=True)
class Federation:
    """What runs, and the means to disturb it; everything is done to real processes, files and packets."""

    folder: Path
    net: Network
    running: Placed
    clock: Clock
    study: studies.Study
    study_hash: str
    taps: dict[str, Tap] = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "coordinator"

    def rounds(self) -> list[dict[str, Any]]:
        """Return the journal's rounds so far."""
        paths = sorted((self.coordinator / "runs").glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
        return [event for event in Journal(paths[-1]).events() if event["type"] == "round"] if paths else []

    def good(self, one: dict[str, Any]) -> bool:
        """Return whether a round opened with every hospital in it."""
        return one["state"] == "opened" and len(one["hospitals"]) == len(self.net.topology.hospitals)

    def wait_for_good_round(self, *, timeout_s: float) -> float:
        """Wait until another round of all hospitals opens; return after how many seconds, or raise HospitalMissing."""
        before, started = len(self.rounds()), time.monotonic()
        while not any(self.good(one) for one in self.rounds()[before:]):
            if self.running.running["run"].poll() is not None:
                raise HospitalMissing("The study has ended.", action=f"Read {self.running.logs / 'run.log'}.")
            if time.monotonic() - started > timeout_s:
                raise HospitalMissing(f"No good round within {timeout_s:.0f} s.", action=f"Read {self.running.logs}.")
            time.sleep(POLL_S)
        return time.monotonic() - started

    def into_a_round(self) -> None:
        """Wait for half a round, so that what comes next falls into the middle of one."""
        took = [one["seconds"] for one in self.rounds()[-5:] if one["state"] == "opened"]
        time.sleep(statistics.median(took) / 2 if took else POLL_S)

    def signal(self, place: str, *, text: str, number: signal.Signals) -> None:
        """Send a signal to a party's processes whose command line `text`, a pattern, is in; raises ConfigError when none is."""
        found = 0
        for pid in self.net.pids(place):
            with contextlib.suppress(OSError):
                said = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if re.search(text, said):
                    os.kill(pid, number)
                    found += 1
        if not found:
            raise ConfigError(f"No process of {place} has {text!r} in its command line.", action="Mend the drill's table.")

    def vault_again(self, hospital: str) -> None:
        """Start a vault again, as a supervisor would, and wait until it answers."""
        self.running.again(f"{hospital}-vault")
        self.running.wait_for(f"{hospital}-vault", "vault ready", timeout_s=READY_S)

    def relay_again(self, hospital: str, *, within_s: float) -> None:
        """Start a relay again and again, as a supervisor would, until it stays; Flower keeps a killed node out for a while."""
        until, name = time.monotonic() + within_s, f"{hospital}-relay"
        while time.monotonic() < until:
            self.running.again(name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.running.running[name].wait(LIVES_S)
                continue
            return
        raise HospitalMissing(f"The relay of {hospital} was not let in.", action=f"Read {self.running.logs / name}.log.")

    def tap(self, hospital: str) -> Tap:
        """Return the tap at a hospital's vault, put there at the first call."""
        if hospital not in self.taps:
            self.taps[hospital] = Tap(self.folder / hospital / "vault.sock")
        return self.taps[hospital]

    def close_taps(self) -> None:
        """Give the vaults their sockets back."""
        for tap in self.taps.values():
            tap.close()

    def fill_disk(self) -> None:
        """Fill the file system of SMALL_DISK to its last byte."""
        with contextlib.suppress(OSError), (self.folder / SMALL_DISK / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def empty_disk(self) -> None:
        """Give the space back."""
        (self.folder / SMALL_DISK / "filler").unlink()


@contextmanager
def federation(folder: Path) -> Iterator[Federation]:
    """Make a coordinator and four hospitals in namespaces, start the study, and end everything on the way out."""
    folder.mkdir(parents=True)
    (folder / "logs").mkdir()
    study_file = folder / "study.toml"
    study_file.write_text(long_study((demo.ROOT / "deploy" / "demo" / "study.toml").read_text()))
    study, topology = studies.read_toml(study_file), Topology(hospitals=demo.HOSPITALS)
    scans, coordinator = folder / "scans", folder / "coordinator"
    address = f"{topology.coordinator}:{PORT}"
    with ExitStack() as stack:
        net = stack.enter_context(network(topology))
        clock = Clock(folder)
        running = Placed(logs=folder / "logs", net=net, clock=clock)
        with demo._stage("1 of 3  scans", total=4 * PATIENTS) as progress:  # noqa: SLF001
            demo._render(scans, patients=PATIENTS, seed=SEED, progress=progress)  # noqa: SLF001
        with demo._stage("2 of 3  enrolment", total=5) as progress:  # noqa: SLF001
            study_hash = demo._enrol(  # noqa: SLF001
                coordinator, scans, study, study_file=study_file, address=address, progress=progress
            )
        stack.enter_context(small_disk(folder / SMALL_DISK, size_mib=DISK_MIB))
        stack.callback(running.end_all)
        with demo._stage("3 of 3  vaults, relays", total=100) as progress:  # noqa: SLF001
            demo._start(running, coordinator, address=address, progress=progress)  # noqa: SLF001
        running.start("run", "motet-coordinator", "run", "--home", coordinator, study_hash)
        made = Federation(folder=folder, net=net, running=running, clock=clock, study=study, study_hash=study_hash)
        stack.callback(made.close_taps)
        yield made


@contextmanager
def small_disk(folder: Path, *, size_mib: int) -> Iterator[None]:
    """Put a folder on a file system of its own of that size, in memory; unmount it on the way out, its files copied back."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode != 0:
        raise ConfigError("A small file system could not be mounted.", action="Run the drills as root.")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield
    finally:
        shutil.rmtree(aside)
        shutil.copytree(folder, aside, ignore=_sockets)
        subprocess.run(["umount", "--lazy", folder], check=False)
        folder.rmdir()
        aside.rename(folder)


def long_study(text: str) -> str:
    """Return the demo's study made long; raises ConfigError when it no longer says what CHANGES expects."""
    for old, new in CHANGES:
        if old not in text:
            raise ConfigError(f"deploy/demo/study.toml no longer says {old!r}.", action="Mend CHANGES.")
        text = text.replace(old, new)
    return text


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
