"""The door's configuration: published paths are those of the installed Flower, nginx accepts it, odd settings are refused."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.supernode import fleet_http_client

from common.errors import ConfigError, NotSetUp
from server import certificates, config, door
from server.config import Home, Settings

SETTINGS = Settings(
    name="hub", federation="fed", address="hub.example.org:443", superlink="127.0.0.1:18443", lane="127.0.0.1:18444"
)


@pytest.fixture
def home(tmp_path):
    made = config.create(tmp_path / "c", settings=SETTINGS)
    certificates.create(made.certificates, keys=made.keys, federation="fed", hosts=("hub.example.org",))
    return made


def test_what_is_published_is_what_the_installed_supernode_calls_but_for_registering():
    called = set(re.findall(r'path="/v1/fleet/([a-z-]+)"', Path(fleet_http_client.__file__).read_text()))
    assert set(door.PATHS) == called - {"register-node", "unregister-node"}


def test_the_configuration_names_this_coordinator_and_nothing_public_but_the_door(home):
    text = door.write(home, SETTINGS).read_text()
    listening = re.findall(r"^ *listen (.*);", text, re.MULTILINE)
    assert "0.0.0.0:443" in listening
    assert {place.rpartition(":")[2].split()[0] for place in listening if not place.startswith("unix:")} == {"443"}
    assert "proxy_pass https://127.0.0.1:18443;" in text
    assert "proxy_pass 127.0.0.1:18444;" in text
    assert "BEGIN" not in text
    assert (door.folder(home).stat().st_mode & 0o777) == 0o700


def test_a_loopback_address_is_listened_on_alone(home):
    text = door.write(home, replace(SETTINGS, address="127.0.0.1:8443")).read_text()
    assert "listen 127.0.0.1:8443;" in text
    assert "0.0.0.0" not in text


def test_written_twice_it_is_the_same(home):
    assert door.write(home, SETTINGS).read_bytes() == door.write(home, SETTINGS).read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"superlink": "127.0.0.1:443"},
        {"lane": "127.0.0.1:443"},
        {"superlink": "0.0.0.0:18443"},
        {"lane": "hub.example.org:18444"},
        {"lane": "192.0.2.1:18444"},
    ],
    ids=str,
)
def test_settings_that_would_go_round_the_door_are_refused(home, changed):
    with pytest.raises(ConfigError):
        door.write(home, replace(SETTINGS, **changed))


@pytest.mark.parametrize("name", ["a b", "a;b", "a{b", "$a", 'a"b', "ü", "x" * 100], ids=ascii)
def test_a_folder_that_nginx_could_misread_is_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(ConfigError):
        door.check(Home(tmp_path / name), SETTINGS)
    assert not (tmp_path / name).exists()


def test_without_a_door_in_the_settings_there_is_none_to_open(home):
    with pytest.raises(NotSetUp):
        door.command(home, replace(SETTINGS, address=SETTINGS.superlink))


def test_without_nginx_it_says_what_to_install(home, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(door, "PROGRAM_PATH", "")
    with pytest.raises(NotSetUp, match="libnginx-mod-stream"):
        door.command(home, SETTINGS)


@pytest.fixture
def nginx():
    found = shutil.which("nginx", path=door.PROGRAM_PATH)
    if found is None:
        pytest.skip("nginx is not installed")
    if not any((place / door.STREAM).exists() for place in door.MODULES):
        pytest.skip("nginx has no stream module: libnginx-mod-stream")
    return found


def test_nginx_accepts_it_and_stale_sockets_are_cleared(home, nginx):
    settings = replace(SETTINGS, address="127.0.0.1:18445")
    door.write(home, settings)
    (door.folder(home) / "lane.sock").write_text("")
    command = door.command(home, settings)
    assert not (door.folder(home) / "lane.sock").exists()
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_what_nginx_says_of_a_bad_certificate_is_passed_on(home, nginx):
    (home.certificates / "server.crt").write_text("junk")
    with pytest.raises(ConfigError, match="certificate"):
        door.command(home, replace(SETTINGS, address="127.0.0.1:18445"))
