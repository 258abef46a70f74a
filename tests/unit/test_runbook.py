"""The run-book, the units and the compose files say what exists: commands, options, files, log lines, codes, walls."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from client import cli as hospital
from common import errors
from server import cli as coordinator
from tests import federation

ROOT = Path(federation.__file__).parents[1]
DEPLOY = ROOT / "deploy"
BOOK = (DEPLOY / "README.md").read_text()
PROGRAMS = {
    "motet-hospital": typer.main.get_command(hospital.app),
    "motet-coordinator": typer.main.get_command(coordinator.app),
}
LINES = [line for block in re.findall(r"```\n(.*?)```", BOOK, re.DOTALL) for line in block.splitlines() if line.strip()]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def calls(words):
    """Yield every call of one of Motet's programs in a list of words."""
    for at, word in enumerate(words):
        if Path(word).name in PROGRAMS and (at == 0 or word.startswith("/") or words[at - 1] == "--"):
            yield Path(word).name, words[at + 1], words[at + 2 :]


def check(program, command, rest):
    known = PROGRAMS[program].commands
    assert command in known, f"{program} {command}"
    inner = getattr(known[command], "commands", {})
    if rest and rest[0] in inner:
        known, command, rest = inner, rest[0], rest[1:]
    options = {name: one for one in known[command].params for name in one.opts if name.startswith("--")}
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    assert set(given) <= set(options), (program, command, given)
    needed = {one.opts[0] for one in options.values() if one.required}
    assert needed <= set(given), (program, command, needed - set(given))


def test_the_run_book_has_commands():
    assert len([one for line in LINES for one in calls(shlex.split(line))]) > 12


@pytest.mark.parametrize("line", LINES)
def test_every_command_and_option_of_the_run_book_exists(line):
    words = shlex.split(line)
    for call in calls(words):
        check(*call)
    for word in words:
        if word.startswith("deploy/"):
            assert (ROOT / word).exists(), word
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_folder_and_file_of_its_table_exists():
    for name in re.findall(r"`([a-z.-]+/?)`", BOOK.split("\n\n")[1]):
        assert (DEPLOY / name).exists() or (DEPLOY / "systemd" / name).exists() or name.startswith(("make", "compose")), name


def test_every_code_it_explains_exists():
    codes = {one.code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.MotetError)}
    source = "".join(path.read_text() for part in ("client", "server") for path in (ROOT / part).glob("*.py"))
    for code in set(re.findall(r"`(E-[A-Z-]+\*?)`", BOOK)):
        if code.endswith("*"):
            assert any(one.startswith(code[:-1]) for one in codes), code
        else:
            assert code in codes or f'"{code}"' in source, code


def test_every_log_line_it_explains_exists():
    files = [path for part in ("client", "server", "common") for path in (ROOT / part).rglob("*")]
    source = "".join(path.read_text() for path in files if path.suffix in {".py", ".j2"})
    table = BOOK[BOOK.index("| where | line |") : BOOK.index("| code | meaning |")]
    for row in table.splitlines()[2:]:
        if row.startswith("|"):
            for word in re.findall(r"`([a-z][A-Za-z -]+)`", row.split("|")[2]):
                assert word in source or word in {"seconds", "Handshake failed"}, word  # nginx, gRPC


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_accepted_by_systemd(path, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("/opt/motet/bin", str(Path(sys.executable).parent)))
    command = ["systemd-analyze", "verify", "--man=no", copy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if "motet" in line] == []


def unit(name):
    read = configparser.RawConfigParser(strict=False)
    read.optionxform = str
    read.read(DEPLOY / "systemd" / f"{name}.service")
    return read["Service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_calls_what_exists_as_nobody_special_and_never_gives_up(path):
    service = unit(path.stem)
    for call in calls(shlex.split(service["ExecStart"])):
        check(*call)
    assert service["User"].startswith("motet-")
    assert (service["Restart"], service["NoNewPrivileges"], service["ProtectSystem"]) == ("always", "yes", "strict")
    assert "StartLimitIntervalSec=0" in path.read_text()


def test_the_units_stand_on_both_sides_of_the_wall():
    vault, relay = unit("motet-vault"), unit("motet-relay")
    assert vault["User"] != relay["User"]
    assert (vault["PrivateNetwork"], vault["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")
    assert {"/srv/motet/scans", "/srv/motet/clinical.csv"} <= set(vault["ReadOnlyPaths"].split())
    assert {"/srv/motet", "/var/lib/motet-vault"} <= set(relay["InaccessiblePaths"].split())
    assert "ReadWritePaths" not in relay


def test_the_receiver_fills_the_inbox_and_reaches_nothing_else():
    receiver, vault = unit("motet-receiver"), unit("motet-vault")
    assert receiver["User"] not in {vault["User"], unit("motet-relay")["User"]}
    assert receiver["ReadWritePaths"].split() == ["/srv/motet/inbox"]
    assert "/var/lib/motet-vault" in receiver["InaccessiblePaths"].split()
    assert "--plain" not in receiver["ExecStart"]


def test_the_users_and_folders_are_those_of_the_units():
    for role in ("hospital", "coordinator"):
        users = re.findall(r"^u (\S+)", (DEPLOY / "systemd" / f"motet-{role}.sysusers").read_text(), re.MULTILINE)
        owners = re.findall(r"^d \S+ \d+ (\S+)", (DEPLOY / "systemd" / f"motet-{role}.tmpfiles").read_text(), re.MULTILINE)
        assert set(owners) == set(users)
    assert {unit(path.stem)["User"] for path in UNITS} == {"motet-vault", "motet-relay", "motet-receiver", "motet-coordinator"}


@pytest.fixture
def compose(monkeypatch):
    yaml = pytest.importorskip("yaml")
    return {path.stem: yaml.safe_load(path.read_text()) for path in (DEPLOY / "compose").glob("*.yaml")}


def test_the_containers_stand_on_both_sides_of_the_wall(compose):
    services = compose["hospital"]["services"]
    vault, relay = services["vault"], services["relay"]
    assert vault["user"] != relay["user"]
    assert vault["network_mode"] == "none"
    scans = [one for one in vault["volumes"] if isinstance(one, dict)]
    assert [one["read_only"] for one in scans] == [True, True]
    assert all(one["read_only"] for one in relay["volumes"])
    assert {one["source"] for one in relay["volumes"]} == {"relay", "socket"}


def test_every_container_is_read_only_without_privileges_and_calls_what_exists(compose):
    published = []
    for one in compose.values():
        for service in one["services"].values():
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["restart"] == "always"
            assert service["user"].partition(":")[0] not in {"0", "root"}
            assert "privileged" not in service
            published += service.get("ports", [])
            assert list(calls(service["command"]))
            for call in calls(service["command"]):
                check(*call)
            named = {volume["source"] if isinstance(volume, dict) else volume.split(":")[0] for volume in service["volumes"]}
            assert {name for name in named if "$" not in name} <= set(one["volumes"])
    assert len(published) == 2  # the door and, where scans come from a PACS, the receiver


@pytest.mark.parametrize("name", ["hospital", "coordinator"])
def test_docker_compose_accepts_it(name, monkeypatch):
    program = shutil.which("docker")
    if program is None or subprocess.run([program, "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker compose is not installed")
    for key, value in {"SCANS": "/scans", "CLINICAL": "/clinical.csv", "COORDINATOR": "hub:443"}.items():
        monkeypatch.setenv(key, value)
    command = [program, "compose", "-f", DEPLOY / "compose" / f"{name}.yaml", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
