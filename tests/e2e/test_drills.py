"""Drills through real processes: kill -9 of a vault, a SuperNode and a relay in the middle of a round. Each costs a round."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from common import study as studies
from common.audit import replay
from common.errors import MotetError
from common.processes import program
from deploy.demo import demo, lidc, proof
from deploy.demo.children import children, command
from server.journal import Journal

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]
PATIENTS = 24
STEPS = 10


def processes(text, folder):
    """Return the pids of processes whose command line has `text` and whose command line or environment has `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                said = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
                if text in said and (str(folder) in said or str(folder) in environment):
                    found.append(int(entry.name))
    return found


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Drill:
    """A federation of real processes, a study that runs in it, and its journal."""

    def __init__(self, folder, running, coordinator, address, study_hash):
        self.folder, self.running, self.coordinator, self.address = folder, running, coordinator, address
        with (folder / "logs" / "run.log").open("wb") as log:
            self.run = subprocess.Popen(
                [program("motet-coordinator"), "run", "--home", coordinator, study_hash], stdout=log, stderr=subprocess.STDOUT
            )

    def rounds(self):
        return [
            event
            for path in (self.coordinator / "runs").glob("*/journal.jsonl")
            for event in Journal(path).events()
            if event["type"] == "round"
        ]

    def wait(self, what, timeout_s=300):
        until = time.monotonic() + timeout_s
        while not what():
            assert self.run.poll() is None, (self.folder / "logs" / "run.log").read_text()[-3000:]
            assert time.monotonic() < until, self.rounds()
            time.sleep(0.1)

    def wait_for_full_round(self):
        """Wait until a round of all four opens, then into the middle of the next."""
        before = len(self.rounds())
        self.wait(lambda: any(len(one["hospitals"]) == 4 and one["state"] == "opened" for one in self.rounds()[before:]))
        time.sleep(2.0)

    def start_vault(self, name):
        self.running.running[f"{name}-vault"].wait(10)
        self.running.start(f"{name}-vault", "motet-hospital", "vault", "--home", self.folder / name)
        self.running.wait_for(f"{name}-vault", "vault ready", timeout_s=60)

    def start_relay(self, name):
        """Start a relay, again and again as a supervisor would: Flower lets a killed node in after up to a minute."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            self.running.running[f"{name}-relay"].wait(60)
            self.running.start(
                f"{name}-relay", "motet-hospital", "relay", "--home", self.folder / name, "--superlink", self.address,
                "--ca", self.coordinator / "certificates" / "ca.crt",
            )  # fmt: skip
            time.sleep(8)
            if self.running.running[f"{name}-relay"].poll() is None:
                return
        raise AssertionError("the relay did not come back")


def test_killed_processes_cost_a_round_each_and_the_study_ends_well(tmp_path):
    try:
        lidc.find()
    except MotetError as error:
        pytest.skip(f"{error}")
    folder = tmp_path / "d"
    (folder / "logs").mkdir(parents=True)
    text = (demo.ROOT / "deploy/demo/study.toml").read_text()
    for old, new in (
        ("steps = 8", f"steps = {STEPS}"), ("patients_declared = 190", "patients_declared = 44"),
        ("held_out_fraction = 0.28", "held_out_fraction = 0.5"), ("rounds_void_allowed = 2", "rounds_void_allowed = 6"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    study_file = tmp_path / "study.toml"
    study_file.write_text(text)
    study = studies.read_toml(study_file)

    def nothing(_done, _total):
        return None

    with children(folder / "logs", console=demo.out) as running:
        scans, coordinator, address = tmp_path / "scans", folder / "coordinator", f"127.0.0.1:{demo._free_port()}"
        demo._render(scans, patients=PATIENTS, seed=2, progress=nothing)
        study_hash = demo._enrol(coordinator, scans, study, study_file=study_file, address=address, progress=nothing)
        demo._start(running, coordinator, address=address, progress=nothing)
        drill = Drill(folder, running, coordinator, address, study_hash)
        drill.wait(lambda: len(drill.rounds()) >= 2)

        drill.wait_for_full_round()
        kill(processes("motet-hospital vault", folder / "hosp-b"))
        drill.start_vault("hosp-b")

        drill.wait_for_full_round()
        kill(processes("flwr-clientapp", folder / "hosp-d"))

        drill.wait_for_full_round()
        kill(processes("flower-supernode", folder / "hosp-c"))
        drill.start_relay("hosp-c")

        drill.run.wait(600)
        assert drill.run.returncode == 0, (folder / "logs" / "run.log").read_text()[-3000:]
        bundles = [folder / f"{name}.zip" for name in demo.HOSPITALS]
        for name, path in zip(demo.HOSPITALS, bundles, strict=True):
            command("motet-hospital", "bundle", "--home", folder / name, path)
    rounds = drill.rounds()
    void = [one for one in rounds if one["state"] == "void"]
    print([(one["round"], one["state"], one["missing"], one["seconds"]) for one in rounds])
    assert 1 <= len(void) <= 4
    assert sum(one["state"] == "opened" and one["task"] == "train" for one in rounds) == STEPS
    (run,) = (coordinator / "runs").iterdir()
    result = json.loads((run / "result.json").read_bytes())
    pooled = proof.pooled_table([folder / name for name in demo.HOSPITALS], study=study)
    assert proof.correlation_difference(result, pooled, study=study) <= 1e-10
    assert proof.regression_difference(result, pooled, study=study) <= 1e-10
    assert len(list(replay.replay(run, roster_hash=result["roster"]))) == len(rounds)
    command("motet-audit", "verify", *bundles, "--roster-hash", result["roster"])
