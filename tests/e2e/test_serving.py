"""`serve` with a real SuperLink: who is let in follows the signed roster, and a run that is stopped has no further round."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from client import supernode
from client.relay import RelayHome
from common import files, ports, roster
from common.errors import ConfigError
from common.processes import end
from server import certificates, config, doctor, nodes, stopping, superlink
from server.config import Settings
from tests import federation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]  # machines are shared

COMMAND = Path(sys.executable).parent / "motet-coordinator"
WAIT_S = 90.0


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory, phantom_scans, cohort_cache):
    one = federation.Federation(tmp_path_factory.mktemp("f"), phantom_scans, cache=cohort_cache)
    yield one
    one.close()


class Serving:
    """A coordinator's folder and its `serve`."""

    def __init__(self, folder, hospitals):
        at, lane = (f"127.0.0.1:{ports.free()}" for _ in range(2))
        self.settings = Settings(name="coordinator", federation="phantoms", address=at, superlink=at, lane=lane)
        self.home = config.create(folder, settings=self.settings)
        certificates.create(self.home.certificates, keys=self.home.keys, federation="phantoms", hosts=("127.0.0.1",))
        superlink.write_connection(self.home, self.settings)
        self.sign(hospitals.roster.members)
        self.log = folder.parent / "serve.log"
        self.child = None

    def sign(self, members):
        signed = roster.sign(
            federation="phantoms", coordinator="coordinator", key=config.identity_key(self.home), members=tuple(members)
        )
        files.write(self.home.roster_file, signed.bytes())

    def start(self):
        with self.log.open("ab") as log:
            command = [COMMAND, "serve", "--home", self.home.folder]
            self.child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def said(self):
        return self.log.read_text()

    def motet(self, *arguments):
        done = subprocess.run(
            [COMMAND, arguments[0], "--home", self.home.folder, *arguments[1:]],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def let_in(self):
        return {node.name for node in nodes.known(self.home, self.settings) if not node.taken_away}

    def doctors(self):
        return [(one.state, one.what) for one in doctor.look(self.home) if one.check == "nodes"]


def until(true, *, timeout_s=WAIT_S):
    stop_at = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < stop_at
        time.sleep(0.1)


@pytest.fixture(scope="module")
def serving(tmp_path_factory, hospitals):
    one = Serving(tmp_path_factory.mktemp("s") / "hub", hospitals)
    one.start()
    try:
        until(lambda: "SuperLink ready" in one.said() or one.child.poll() is not None)
        yield one
    finally:
        end(one.child)


def test_serve_speaks_before_the_superlink_is_ready_and_lets_in_the_roster(serving):
    said = serving.said()
    assert said.index("Starting the SuperLink") < said.index("SuperLink ready")
    assert serving.let_in() == set(federation.HOSPITALS)
    assert serving.doctors() == [("ok", "The SuperLink lets in the roster's node keys and no other.")]


@pytest.mark.long
def test_a_run_that_is_interrupted_says_so_and_ends_with_it(serving):
    wanted = federation.study(patience_s=300)
    files.write(serving.home.studies / f"{wanted.hash()}.study.json", wanted.canonical_bytes())
    run = subprocess.Popen(
        [COMMAND, "run", "--home", serving.home.folder, wanted.hash()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until(lambda: list(serving.home.runs.glob("*/run.lock")))
        (folder,) = [path.parent for path in serving.home.runs.glob("*/run.lock")]
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=60)
        assert run.returncode == 130
        assert time.monotonic() - began < 30
    finally:
        run.kill()
    assert "Stopping: the round under way ends, no other begins." in said
    assert "Stopped at round 0: 0 rounds opened. Charged at the hospitals: 0 steps of training, 0 exact sums." in said
    assert stopping.mark(folder).exists()
    kinds = [json.loads(line)["type"] for line in (folder / "journal.jsonl").read_bytes().splitlines()]
    assert kinds[-1] == "stopped"
    state = json.loads(serving.motet("watch", "--json")[1])
    assert state["phase"] == "stopped"


@pytest.mark.long
def test_a_revoked_hospital_is_let_in_no_more_and_everybody_says_so(serving, hospitals):
    """By its name, at once; its SuperNode is refused from then on; its key stays away when it is put on the roster again."""
    code, said = serving.motet("revoke", "hosp-d")
    assert code == 0, said
    assert "no longer lets hosp-d in" in said
    assert config.read_roster(serving.home).names == federation.HOSPITALS[:3]
    assert serving.let_in() == set(federation.HOSPITALS[:3])
    assert serving.doctors()[0][0] == "ok"
    until(lambda: "There is a new roster: hosp-a, hosp-b, hosp-c." in serving.said())

    serving.sign(hospitals.roster.members)  # by mistake: it is on the roster again
    until(lambda: "The node key of hosp-d was taken away once" in serving.said())
    ((state, what),) = serving.doctors()
    assert (state, "hosp-d was taken away" in what) == ("fail", True)


@pytest.mark.long
def test_a_node_that_nobody_enrolled_is_found_and_taken_away_by_serve(serving, hospitals):
    everybody = config.read_roster(serving.home)
    serving.sign(hospitals.roster.members[:2])
    until(lambda: serving.let_in() == {"hosp-a", "hosp-b"})
    assert "The node key of hosp-c was taken away: the roster no longer names it." in serving.said()
    differs = nodes.compare(nodes.known(serving.home, serving.settings), replace(everybody, members=everybody.members[:1]))
    assert [node.name for node in differs.strange] == ["hosp-b"]
    assert (differs.missing, differs.taken_away) == ((), ())


@pytest.mark.long
def test_state_that_is_deleted_lets_the_roster_in_anew(serving, hospitals):
    """What the run-book tells after a key was taken away by mistake."""
    end(serving.child)
    serving.sign(hospitals.roster.members)
    for path in serving.home.flower.glob("state.db*"):
        path.unlink()
    serving.start()
    until(lambda: serving.said().count("SuperLink ready") == 2)
    assert serving.let_in() == set(federation.HOSPITALS)
    log = (serving.home.folder / "superlink.log").read_text()
    assert "already in use" not in log


@pytest.mark.long
def test_a_relay_whose_key_was_taken_away_says_so(serving, hospitals, monkeypatch, capfd):
    serving.motet("revoke", "hosp-d")
    monkeypatch.setattr(supernode, "GIVE_UP_S", 0.0)
    with pytest.raises(ConfigError, match="does not let this node key in"):
        supernode.run(
            RelayHome(hospitals.homes["hosp-d"].relay),
            superlink=serving.settings.address,
            lane=serving.settings.lane,
            ca=serving.home.certificates / "ca.crt",
            stop=threading.Event(),
        )
    assert supernode.REFUSED.decode() in capfd.readouterr().err  # Flower's own lines are still there
