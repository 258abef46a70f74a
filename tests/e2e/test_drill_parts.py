"""The drills' tools, each against something real: a stepped clock, a full disk, a dishonest carrier, junk; and their table."""

import hashlib
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from client import vault_pb2, vault_pb2_grpc
from common import study as studies
from common.errors import ConfigError
from deploy.drill import federation, iproute, junk, table
from deploy.drill.clock import Clock
from deploy.drill.namespaces import COORDINATOR, ROOT, Topology, network
from deploy.drill.tap import Tap, chunks

pytestmark = pytest.mark.e2e


def needs_root():
    if reason := iproute.missing():
        pytest.skip(reason)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_one_process_sees_its_clock_step_and_the_machine_does_not(tmp_path):
    clock = Clock(tmp_path)
    says = "import sys, time, datetime\nfor _ in sys.stdin: print(time.time(), time.monotonic(), time.time_ns(), flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", says], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clock.environment, text=True
    )

    def ask():
        child.stdin.write("\n")
        child.stdin.flush()
        return [float(word) for word in child.stdout.readline().split()]

    first = ask()
    clock.step(shift_s=-3600)
    second = ask()
    clock.step(shift_s=90)
    third = ask()
    child.communicate()
    assert first[0] == pytest.approx(time.time(), abs=5)
    assert second[0] - first[0] == pytest.approx(-3600, abs=5)
    assert third[2] / 1e9 - first[0] == pytest.approx(90, abs=5)
    assert 0 <= third[1] - first[1] < 5  # the monotonic clock goes on


def test_a_small_disk_fills_up_and_gives_its_files_back(tmp_path):
    needs_root()
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "kept").write_text("a")
    with federation.small_disk(folder, size_mib=1):
        (folder / "new").write_text("b")
        with pytest.raises(OSError, match="No space"):
            (folder / "filler").write_bytes(bytes(2 << 20))
        (folder / "filler").unlink()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"kept": "a", "new": "b"}
    assert list(tmp_path.iterdir()) == [folder]


class Echo(vault_pb2_grpc.VaultServicer):
    """Answers with the hash of what it was asked; `forgetful`, with something new each time; refuses long requests."""

    def __init__(self):
        self.asked, self.forgetful = [], False

    def Answer(self, request, context):
        data = b"".join(chunk.data for chunk in request)
        if len(data) > 1000:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "E-ENVELOPE")
        self.asked.append(data)
        yield vault_pb2.Chunk(data=hashlib.sha256(data).digest() + (bytes([len(self.asked)]) if self.forgetful else b""))


@pytest.fixture
def echo(tmp_path):
    server, vault = grpc.server(ThreadPoolExecutor(2)), Echo()
    vault_pb2_grpc.add_VaultServicer_to_server(vault, server)
    server.add_insecure_port(f"unix:{tmp_path / 'vault.sock'}")
    server.start()
    yield vault
    server.stop(None).wait()


def through(path, data):
    with grpc.insecure_channel(f"unix:{path}") as channel:
        return b"".join(chunk.data for chunk in vault_pb2_grpc.VaultStub(channel).Answer(chunks(data), timeout=10))


def test_the_tap_passes_on_repeats_and_gives_the_socket_back(tmp_path, echo):
    path = tmp_path / "vault.sock"
    tap = Tap(path)
    try:
        assert through(path, b"one") == hashlib.sha256(b"one").digest()
        tap.doubling.set()
        assert through(path, b"two") == hashlib.sha256(b"two").digest()
        assert echo.asked == [b"one", b"two", b"one", b"two"]
        assert tap.differed == 0
        tap.doubling.clear()
        assert tap.repeat_all() == 0
        assert echo.asked[4:] == [b"one", b"two"]
        with pytest.raises(grpc.RpcError, match="E-ENVELOPE"):
            through(path, bytes(5000))
        assert tap.send(bytes(5000)) == (b"", "E-ENVELOPE")
        echo.forgetful = True
        assert tap.repeat_all() == 2  # whose answers change is found
    finally:
        tap.close()
    assert through(path, b"three").startswith(hashlib.sha256(b"three").digest())


def test_junk_is_sent_until_the_other_side_has_enough():
    needs_root()
    serves = (
        "import socket\nwith socket.create_server(('0.0.0.0', 7001)) as door:\n print('ready', flush=True)\n"
        " one = door.accept()[0]\n print(len(one.recv(1 << 20, socket.MSG_WAITALL)), flush=True)\n one.close()\n door.accept()"
    )
    with network(Topology(hospitals=("h",))) as net:
        server = net.run_in(COORDINATOR, [sys.executable, "-c", serves], stdout=subprocess.PIPE)
        assert server.stdout.readline() == b"ready\n"
        assert net.listening(COORDINATOR) == [7001]
        assert net.listening("h") == []
        argv = [sys.executable, "-m", "deploy.drill.junk", net.topology.coordinator, "7001"]
        said = net.run_in("h", argv, stdout=subprocess.PIPE, cwd=ROOT).communicate(timeout=60)[0].split()
        assert server.stdout.readline() == b"1048576\n"
        server.stdout.close()
        server.kill()
        server.wait()
    assert said[:2] == [b"7001", b"plain"]
    assert (1 << 20) - (1 << 16) <= int(said[2]) < junk.SIZE_BYTES
    assert int(said[4]) == 0  # no handshake, no bytes


def test_junk_at_a_closed_door_ends_at_once():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    assert junk.pour("127.0.0.1", port, tls=False) == 0


def test_the_drills_study_is_the_demos_made_long(tmp_path):
    text = (ROOT / "deploy/demo/study.toml").read_text()
    path = tmp_path / "study.toml"
    path.write_text(federation.long_study(text, steps=federation.STEPS))
    study = studies.read_toml(path)
    assert study.training.steps == federation.STEPS
    assert study.patience_s == federation.PATIENCE_S
    for drill in table.DRILLS:
        assert 0 < drill.good_within_s <= 4 * study.patience_s, drill.name
        assert drill.lost_most <= study.privacy.rounds_void_allowed, drill.name
        assert drill.lasts_at_most_s / federation.ROUND_S < federation.STEPS - 10, drill.name  # it fits into a study
        if drill.lasts_s > study.patience_s and "slow" not in drill.name:
            assert drill.lost_most, drill.name  # nobody waits longer than patience
            assert drill.goes_on, drill.name
    with pytest.raises(ConfigError, match="no longer says"):
        federation.long_study(text.replace("steps = 8", "steps = 9"), steps=4)


def test_no_two_drills_share_a_name():
    assert len({drill.name for drill in table.DRILLS}) == len(table.DRILLS)
