"""Vault and relay as two users of one machine: the vault without a network, the relay without a way to what the vault reads."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from common.processes import end

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
VAULT, RELAY, OTHER, SOCKET_GROUP = 64001, 64002, 64003, 64010
READY_S = 60
POLICY = "--epsilon-cap 1 --delta-cap 0.00001 --hospitals-min 3 --colluders-min 1 --patients-min 3 --exact-releases-max 1"


def private_parent(path):
    """Return the first folder on the way to `path` that other users may not enter."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)


def as_user(user, *command, network=True):
    """Return a command as another user: in a mount namespace that shows it this interpreter, and without a network if told."""
    hidden = private_parent(Path(sys.executable).resolve())
    shown = ""
    if hidden is not None:
        inner = hidden / Path(sys.executable).resolve().relative_to(hidden).parts[0]
        shown = f"mount -t tmpfs t /mnt; mkdir /mnt/i; mount --bind {inner} /mnt/i; mount -t tmpfs -o mode=755 t {hidden}; "
        shown += f"mkdir {inner}; mount --bind /mnt/i {inner}; "
    groups = SOCKET_GROUP if user != OTHER else OTHER
    drop = f"exec setpriv --reuid {user} --regid {user} --groups {groups} --no-new-privs --inh-caps=-all -- "
    return [
        *("unshare", "-m", *(() if network else ("-n",)), "sh", "-c", f'{shown}{drop}"$@"', "sh", *map(str, command)),
    ]


def run(user, *command, code=0, **environment):
    done = subprocess.run(
        as_user(user, *command),
        env={**os.environ, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def script(text, *arguments):
    return [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]


def program(name):
    return Path(sys.executable).parent / name


def bundle(source, folder):
    """Build a bundle, named as `flwr build` names it."""
    data = build_fab_from_disk(source)
    path = folder / f"motet.motet.0-1-0.{hashlib.sha256(data).hexdigest()[:8]}.fab"
    path.write_bytes(data)
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def place():
    """A hospital's machine after the run-book: two users, the relay's folder apart, the bundle pinned, the vault running."""
    if os.geteuid() != 0:
        pytest.skip("only root can become two users")
    for tool in ("unshare", "setpriv"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no namespaces here")
    folder = Path(tempfile.mkdtemp(prefix="motet-users-"))
    folder.chmod(0o755)
    children = []
    try:
        for name, owner, group, mode in (
            ("vault", VAULT, VAULT, 0o700), ("relay", RELAY, RELAY, 0o755), ("run", VAULT, SOCKET_GROUP, 0o2750),
            ("scans", VAULT, VAULT, 0o500),
        ):  # fmt: skip
            (folder / name).mkdir()
            os.chown(folder / name, owner, group)
            (folder / name).chmod(mode)
        (folder / "scans" / "table.csv").write_text("patient_id,age\nA,1\n")
        os.chown(folder / "scans" / "table.csv", VAULT, VAULT)
        (folder / "scans" / "table.csv").chmod(0o400)
        home, hospital = folder / "vault" / "site", program("motet-hospital")
        where = ("--scans", folder / "scans", "--clinical", folder / "scans" / "table.csv")
        run(VAULT, hospital, "init", "--home", home, "--name", "hosp-a", *where, *POLICY.split())
        run(VAULT, hospital, "enrol", "--home", home, folder / "vault" / "request.json")
        relay = folder / "relay" / "site"
        subprocess.run(
            [ROOT / "deploy/separate-relay", home, relay, str(RELAY), folder / "run" / "vault.sock"], check=True, timeout=30
        )
        approved = bundle(ROOT / "server" / "bundle", folder)
        subprocess.run(
            [ROOT / "deploy/pin-bundle", approved, relay],
            env={**os.environ, "FLWR": str(program("flwr"))},
            check=True,
            timeout=60,
        )
        with (folder / "vault.log").open("wb") as log:
            command = as_user(VAULT, hospital, "vault", "--home", home, network=False)
            vault = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        children.append(vault)
        until = time.monotonic() + READY_S
        while "vault ready" not in (said := (folder / "vault.log").read_text()):
            assert vault.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.1)
        yield folder
    finally:
        for child in children:
            end(child)
        shutil.rmtree(folder)


SENDS = """
    import sys, grpc
    from client import vault_pb2, vault_pb2_grpc
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        stub = vault_pb2_grpc.VaultStub(channel)
        print("hospital", stub.State(vault_pb2.StateRequest(), timeout=10).hospital)
        try:
            list(stub.Answer(iter([vault_pb2.Chunk(data=b"junk")]), timeout=10))
        except grpc.RpcError as error:
            print("code", error.details())
"""


def test_the_relays_user_exchanges_envelopes_with_the_vault_over_the_socket(place):
    said = run(RELAY, *script(SENDS, place / "run" / "vault.sock"))
    assert "hospital hosp-a" in said
    assert "code E-REFUSED-ROSTER" in said  # none is approved yet
    assert "turned-away" in (place / "vault.log").read_text()


def test_nobody_else_may_knock(place):
    knocks = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    said = run(OTHER, *script(knocks, place / "run/vault.sock"), code=1)
    assert "PermissionError" in said


@pytest.mark.parametrize("target", ["vault", "vault/site/keys/identity.pem", "vault/site/cohorts", "scans", "scans/table.csv"])
def test_the_relays_user_reads_nothing_of_the_vaults(place, target):
    looks = "import os, sys; path = sys.argv[1]; os.listdir(path) if os.path.isdir(path) else open(path).read()"
    said = run(RELAY, *script(looks, place / target), code=1)
    assert "PermissionError" in said
    run(VAULT, *script(looks, place / target))


def test_the_vaults_user_has_no_network_and_reads_no_key_of_the_relay(place):
    told = json.loads(run(VAULT, program("motet-hospital"), "doctor", "--home", place / "vault/site", "--json", code=10))
    states = {(one["check"], one["state"]) for one in told}
    assert {("vault", "ok"), ("socket", "ok"), ("network", "ok"), ("ledger", "ok"), ("folder", "ok")} <= states
    assert [one["check"] for one in told if one["state"] == "fail"] == ["roster"]
    said = run(VAULT, *script("import sys; open(sys.argv[1]).read()", place / "relay/site/tls.key"), code=1)
    assert "PermissionError" in said


def test_the_relays_self_check_sees_the_wall_and_the_pinned_bundle(place):
    ca = place / "ca.crt"
    ca.write_text("none")
    ca.chmod(0o644)
    where = ("--folder", place / "relay/site", "--superlink", "127.0.0.1:1", "--ca", ca)
    told = json.loads(run(RELAY, program("motet-hospital"), "doctor", *where, "--json", code=10))
    states = {(one["check"], one["state"]) for one in told}
    assert {("wall", "ok"), ("bundle", "ok"), ("socket", "ok"), ("keys", "ok"), ("folder", "ok"), ("ca", "fail")} <= states


UNPACKS = """
    import sys
    from flwr.cli.install import install_from_fab  # what Flower's ClientApp process calls with what the coordinator sent
    print("runs", install_from_fab(open(sys.argv[1], "rb").read(), skip_prompt=True))
"""


def test_a_bundle_with_code_in_it_is_refused_and_the_approved_one_runs(place, tmp_path):
    hostile = tmp_path / "bundle"
    shutil.copytree(ROOT / "server" / "bundle", hostile)
    (hostile / "client").mkdir()
    (hostile / "client" / "app.py").write_text("app = ClientApp()\n")
    project = hostile / "pyproject.toml"
    project.write_text(project.read_text().replace('fab-include = ["/LICENSE"]', 'fab-include = ["/LICENSE", "client/app.py"]'))
    (approved,) = place.glob("*.fab")
    strange = bundle(hostile, place)
    flower = str(place / "relay/site/flower")
    assert "runs" in run(RELAY, *script(UNPACKS, approved), FLWR_HOME=flower)
    assert "PermissionError" in run(RELAY, *script(UNPACKS, strange), FLWR_HOME=flower, code=1)
    moved = "import os, sys; os.rename(sys.argv[1], sys.argv[1] + '.old')"
    for part in ("flower", "flower/apps"):
        assert "PermissionError" in run(RELAY, *script(moved, place / "relay/site" / part), code=1)
    pinned = subprocess.run(
        [ROOT / "deploy/pin-bundle", strange, place / "relay/site"],
        env={**os.environ, "FLWR": str(program("flwr"))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert pinned.returncode == 20
    assert "code" in pinned.stderr


def test_a_relay_is_separated_once(place):
    again = [ROOT / "deploy/separate-relay", place / "vault/site", place / "relay/site", str(RELAY), "/run/x/vault.sock"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 12
