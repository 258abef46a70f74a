"""Real processes: SuperLink and SuperNodes over TLS, vaults on Unix sockets, the commands that people use, a small study.

One training step, so that the whole study is three secure sums. While it runs, the vaults are watched: no network socket, and
nothing of ours listens beyond loopback.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from common.errors import MotetError
from deploy.demo import dicom, lidc
from deploy.demo.few import few

ROOT = Path(__file__).resolve().parents[2]
HOSPITALS = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
RUN_S = 500.0  # a minute or two, and many where the machine is at its limit
END_S = 60.0
PATIENTS = 24
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}  # as /proc/net/tcp writes it
LISTEN = "0A"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # machines are shared


class Watch(threading.Thread):
    """Looks at the processes of one folder: sockets of the vaults, addresses that anybody of ours listens on."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.stop = str(folder), threading.Event()
        self.vaults, self.vault_sockets, self.listeners = set(), set(), set()

    def ours(self):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    environment = (entry / "environ").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if (self.folder in command or self.folder in environment) and int(entry.name) != os.getpid():
                    yield int(entry.name), command

    @staticmethod
    def network():
        """Return inode -> (local address, state) of every TCP and UDP socket."""
        found = {}
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                found[words[9]] = (words[1], words[3])
        return found

    def inodes(self, pid):
        try:
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            return set()
        return {link[8:-1] for link in links if link.startswith("socket:[")}

    def run(self):
        while not self.stop.wait(0.5):
            network = self.network()
            for pid, command in self.ours():
                held = {network[inode] for inode in self.inodes(pid) if inode in network}
                if "motet-hospital vault" in command or "client.imaging" in command:
                    self.vaults.add(pid)
                    self.vault_sockets |= held
                self.listeners |= {address.rsplit(":", 1)[0] for address, state in held if state == LISTEN}


def text_of(path):
    data = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            data += b"".join(archive.read(name) for name in archive.namelist())
    return data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    try:
        lidc.find()
    except MotetError as error:
        pytest.skip(f"{error}")
    folder = tmp_path_factory.mktemp("e")
    small = few((ROOT / "deploy/demo/study.toml").read_text()).replace("steps = 8", "steps = 1")
    (folder / "study.toml").write_text(small)
    out = folder / "demo"
    watch = Watch(out)
    watch.start()
    command = [
        sys.executable,
        "-m",
        "deploy.demo.demo",
        "--out",
        out,
        "--study",
        folder / "study.toml",
        "--patients",
        str(PATIENTS),
    ]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said = demo.communicate(timeout=RUN_S)[0].decode()
    except subprocess.TimeoutExpired:
        demo.send_signal(signal.SIGINT)  # it ends its children, which would outlive one that was killed
        demo.communicate(timeout=END_S)
        raise
    watch.stop.set()
    watch.join()
    logs = "".join(path.read_text()[-2000:] for path in (out / "logs").glob("*.log")) if demo.returncode else ""
    assert demo.returncode == 0, said + logs
    return out, said, watch


def test_a_study_runs_through_real_processes_and_its_audit_verifies(finished):
    out, said, _ = finished
    result = json.loads((out / "result.json").read_bytes())
    assert result["hospitals"] == list(HOSPITALS)
    assert [event["task"] for event in result["rounds"]] == ["gram", "query", "train", "evaluate"]
    assert result["correlation"]["max_abs_diff_vs_pooled"] <= 1e-10
    assert result["ols"]["max_rel_diff_vs_statsmodels"] <= 1e-10
    assert result["audit"]["verified"] is True
    assert result["training"]["steps"] == 1
    assert 0 < float(result["training"]["epsilon"]) <= 10
    assert result["seconds"]["per_secure_sum"] > 0
    for name in ("report.html", "model.safetensors", *(f"{hospital}.bundle.zip" for hospital in HOSPITALS)):
        assert (out / name).stat().st_size > 0
    assert "verified" in said


def test_the_vaults_hold_no_network_socket_and_nothing_listens_beyond_loopback(finished):
    _, _, watch = finished
    assert len(watch.vaults) >= len(HOSPITALS)
    assert watch.vault_sockets == set()
    assert watch.listeners <= LOOPBACK


def test_every_child_has_ended(finished):
    _, _, watch = finished
    end = time.monotonic() + 15
    while (left := list(watch.ours())) and time.monotonic() < end:
        time.sleep(0.5)
    assert left == []


def test_no_identifier_left_the_vaults(finished):
    out, said, _ = finished
    needles = {b"PLANTED", b"Planted"}
    for hospital in HOSPITALS:
        for number in range(1, PATIENTS + 1):
            patient = dicom.Patient(hospital=hospital, number=number, age_years=1, sex="F")
            needles |= {patient.patient_id.encode(), patient.name.encode()}
    leaks = []
    for path in out.rglob("*"):
        if path.is_file() and "cohorts" not in path.relative_to(out).parts:
            data = text_of(path)
            leaks += [(path.name, needle) for needle in needles if needle in data]
    assert leaks == []
    assert not any(needle.decode() in said for needle in needles)


@pytest.mark.long
def test_an_interrupted_demo_leaves_nothing_running(finished, tmp_path):
    out, _, _ = finished
    scans = out.parent / f"{out.name}-scans"
    assert scans.is_dir()
    (tmp_path / "again-scans").symlink_to(scans)
    study = out.parent / "study.toml"
    watch = Watch(tmp_path / "again")
    command = [
        sys.executable,
        "-m",
        "deploy.demo.demo",
        "--out",
        tmp_path / "again",
        "--study",
        study,
        "--patients",
        str(PATIENTS),
    ]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not any("motet-hospital vault" in said for _, said in watch.ours()) and time.monotonic() < until:
            time.sleep(0.2)
        assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 130
        assert [said for _, said in watch.ours()] == []
    finally:
        demo.kill()


def test_private_files_are_private(finished):
    out, _, _ = finished
    private = [
        *out.rglob("*.pem"),
        *out.rglob("pseudonym.key"),
        *out.rglob("keys/node"),
        *out.rglob("*.npz"),
        *out.rglob("*.run.json"),
    ]
    assert len(private) >= 4 * 5
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    databases = list(out.rglob("state.db")) + list(out.rglob("ledger.sqlite"))
    assert {path.stat().st_mode & 0o077 for path in databases} == {0}
