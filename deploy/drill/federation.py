"""A federation of real processes in namespaces, made by the demo's own commands; its studies run on while it is disturbed."""

import contextlib
import json
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
from common.processes import end, program, uninterrupted
from deploy.demo import cohort, demo, few
from deploy.demo.children import Children, command, together
from deploy.drill.clock import Clock
from deploy.drill.link import PLAIN, Way
from deploy.drill.namespaces import COORDINATOR, Network, Topology, network
from deploy.drill.tap import Tap
from server.journal import Journal

PORT, LANE_PORT = 18443, 18444
PATIENTS = 24
SEED = 2
READY_S = 120
POLL_S = 0.05
SMALL_DISKS = ("hosp-d", COORDINATOR)  # their folders are file systems of their own, which a drill can fill
CLOCKED = "hosp-b"  # its processes have a wall clock of their own
TAPPED = "hosp-a"
DISK_MIB = 512
BASE = Way(delay_ms=150)  # every link, each way, while nothing is done to it: it sets the pace of the rounds
STEPS, STEPS_UNDISTURBED = 320, 4
ROUND_S = 0.38  # a round on these links at its quickest, for telling whether a study still lasts long enough
ENDS_S = 600.0
PATIENCE_S = 30
# The demo's study, made long: (what demo/study.toml says, what a drill needs). Noise is high because there are many steps.
CHANGES: Final = (
    ("patience_s = 90", f"patience_s = {PATIENCE_S}"), ("steps = 8", "steps = {steps}"),
    ("noise_multiplier = 4", "noise_multiplier = 60"),
    ("rounds_void_allowed = 2", "rounds_void_allowed = 30"),
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

    def end(self, name: str) -> None:
        """Wait for a child that ends by itself, and end what it left."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.running[name].wait(READY_S)
        end(self.running[name])

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
    taps: dict[str, Tap] = field(default_factory=dict)
    run: Path | None = None  # the folder of the study that runs now

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "coordinator"

    def begin(self, study_hash: str) -> None:
        """Start a study by `motet-coordinator run` and wait until its first step is taken; raises ConfigError."""
        before, self.run = self._runs(), None
        self.pace(BASE)
        self.running.start("run", "motet-coordinator", "run", "--home", self.coordinator, study_hash)
        until = time.monotonic() + READY_S
        while not any(one["task"] == "train" for one in self.rounds()):
            if time.monotonic() > until or self.running.running["run"].poll() is not None:
                raise ConfigError("A study did not begin.", action=f"Read {self.running.logs / 'run.log'}.")
            time.sleep(POLL_S)
            self.run = next(iter(self._runs() - before), None)

    def _runs(self) -> set[Path]:
        return {one for one in (self.coordinator / "runs").iterdir() if one.is_dir()}  # beside what witnesses wrote

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind in the journal of the study that runs now."""
        journal = [] if self.run is None else Journal(self.run / "journal.jsonl").events()
        return [event for event in journal if event["type"] == kind]

    def rounds(self) -> list[dict[str, Any]]:
        """Return the rounds of the study that runs now, so far."""
        return self.events("round")

    def good(self, one: dict[str, Any]) -> bool:
        """Return whether a round opened with every hospital in it."""
        return one["state"] == "opened" and len(one["hospitals"]) == len(self.net.topology.hospitals)

    def steps_left(self) -> int:
        """Return how many steps of training are left in the study that runs now; 0 where none runs."""
        return (
            0 if self.run is None else STEPS - sum(one["task"] == "train" and one["state"] == "opened" for one in self.rounds())
        )

    def until_it_ends(self, *, timeout_s: float) -> Path:
        """Wait for the result of the study that runs now, on quick links, and return its folder; raises HospitalMissing."""
        run, until = self.run, time.monotonic() + timeout_s
        if run is None:
            raise HospitalMissing("No study runs.", action="Begin one.")
        self.pace(PLAIN)
        while not self.ended():
            if time.monotonic() > until:
                raise HospitalMissing("The study did not end.", action=f"Read {self.running.logs}.")
            time.sleep(POLL_S)
        self.run = None
        self.running.end("run")
        return run

    def pace(self, way: Way) -> None:
        """Make every link like that, both ways."""
        for hospital in self.net.topology.hospitals:
            self.net.shape(hospital, up=way, down=way)

    def ended(self) -> str:
        """Return how the study that runs now has ended, failed or done; empty while it goes on."""
        journal = [] if self.run is None else [event["type"] for event in Journal(self.run / "journal.jsonl").events()]
        last = max((at for at, kind in enumerate(journal) if kind in {"start", "resumed"}), default=0)
        return next((kind for kind in journal[last:] if kind in {"done", "failed"}), "")

    def wait_for_good_round(self, *, since: float, timeout_s: float) -> None:
        """Wait for a round of all hospitals that began and opened after `since`, a Unix time; raises HospitalMissing."""
        while not any(self.good(one) and one["time"] - one["seconds"] >= since for one in self.rounds()):
            if how := self.ended():
                raise HospitalMissing(f"The study has ended: {how}.", action=f"Read {self.running.logs}.")
            if time.time() - since > timeout_s:
                raise HospitalMissing(f"No good round within {timeout_s:.0f} s.", action=f"Read {self.running.logs}.")
            time.sleep(POLL_S)

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

    def relay_again(self, hospital: str) -> None:
        """Start a relay again, as a supervisor would."""
        self.running.again(f"{hospital}-relay")

    def serve_again(self) -> None:
        """Start the coordinator's `serve` again, as a supervisor would, and wait until it is ready."""
        self.running.again("superlink")
        self.running.wait_for("superlink", "SuperLink ready", timeout_s=READY_S)

    def tap(self, hospital: str) -> Tap:
        """Return the tap at a hospital's vault, put there at the first call."""
        if hospital not in self.taps:
            self.taps[hospital] = Tap(self.folder / hospital / "vault.sock")
        return self.taps[hospital]

    def close_taps(self) -> None:
        """Give the vaults their sockets back."""
        for tap in self.taps.values():
            tap.close()

    def fill_disk(self, place: str) -> None:
        """Fill the file system of one of SMALL_DISKS to its last byte."""
        with contextlib.suppress(OSError), (self.folder / place / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def empty_disk(self, place: str) -> None:
        """Give the space back."""
        (self.folder / place / "filler").unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """The studies of the drills: the same statistics, undisturbed and short, and long enough to be disturbed."""

    study: studies.Study
    undisturbed_hash: str
    study_hash: str


@contextmanager
def federation(folder: Path) -> Iterator[tuple[Federation, Proposed]]:
    """Make a coordinator and four hospitals in namespaces, start everything but a study, and end it all on the way out."""
    folder.mkdir(parents=True)
    (folder / "logs").mkdir()
    text = few.few((demo.ROOT / "deploy" / "demo" / "study.toml").read_text())
    paths = {steps: folder / f"study-{steps}.toml" for steps in (STEPS_UNDISTURBED, STEPS)}
    for steps, path in paths.items():
        path.write_text(long_study(text, steps=steps))
    study, topology = studies.read_toml(paths[STEPS]), Topology(hospitals=demo.HOSPITALS)
    scans = folder.parent / "drill-scans" / f"{cohort.VERSION}-{PATIENTS}-{SEED}"
    coordinator = folder / "coordinator"
    address, lane = (f"{topology.coordinator}:{port}" for port in (PORT, LANE_PORT))
    with ExitStack() as stack:
        net = stack.enter_context(network(topology))
        clock = Clock(folder)
        running = Placed(logs=folder / "logs", net=net, clock=clock)
        with demo._stage("1 of 3  scans", total=4 * PATIENTS) as progress:  # noqa: SLF001
            demo._render(scans, patients=PATIENTS, seed=SEED, progress=progress)  # noqa: SLF001
        with demo._stage("2 of 3  enrolment", total=5) as progress:  # noqa: SLF001
            study_hash = demo._enrol(  # noqa: SLF001
                coordinator, scans, study, study_file=paths[STEPS], address=address, lane=lane, progress=progress
            )
            undisturbed_hash = _approve(coordinator, paths[STEPS_UNDISTURBED])
        for place in SMALL_DISKS:
            stack.enter_context(small_disk(folder / place, size_mib=DISK_MIB))
        stack.callback(running.end_all)
        with demo._stage("3 of 3  vaults, relays", total=100) as progress:  # noqa: SLF001
            demo._start(running, coordinator, address=address, lane=lane, progress=progress)  # noqa: SLF001
        made = Federation(folder=folder, net=net, running=running, clock=clock)
        made.tap(TAPPED)  # before a relay opens the vault's socket
        stack.callback(made.close_taps)
        yield made, Proposed(study=study, undisturbed_hash=undisturbed_hash, study_hash=study_hash)


def _approve(coordinator: Path, study_file: Path) -> str:
    """Propose one more study and let every hospital approve it, and exact statistics for every run of the drills."""
    proposed = json.loads(command("motet-coordinator", "propose", "--home", coordinator, study_file, "--json"))
    homes = [coordinator.parent / name for name in demo.HOSPITALS]
    together(
        [
            ("motet-hospital", "approve", "--home", home, "--study", proposed["study"], "--hash", proposed["hash"])
            for home in homes
        ]
    )
    for home in homes:
        site = home / "site.toml"
        text, changed = re.subn(r"(?m)^exact_releases_max = \d+", "exact_releases_max = 1000", site.read_text())
        if changed != 1:
            raise ConfigError("site.toml has no exact_releases_max.", action="Mend the drills.")
        site.write_text(text)
    return str(proposed["hash"])


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


def long_study(text: str, *, steps: int) -> str:
    """Return the demo's study with so many steps; raises ConfigError when it no longer says what CHANGES expects."""
    for old, new in CHANGES:
        if old not in text:
            raise ConfigError(f"deploy/demo/study.toml no longer says {old!r}.", action="Mend CHANGES.")
        text = text.replace(old, new.format(steps=steps))
    return text


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
