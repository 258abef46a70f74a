"""The SuperLink: refused on a taken port before anything starts; its environment is quiet and its files private."""

import os
import socket
import stat
import tomllib

import pytest

from common.errors import PortInUse
from server import config, superlink
from server.config import Settings


@pytest.fixture
def home(tmp_path):
    return config.create(tmp_path / "hub", settings=settings(1))


def settings(port, *, host="127.0.0.1"):
    return Settings(
        name="hub", federation="fed", address=f"{host}:{port}", superlink=f"{host}:{port}", lane=f"{host}:{port + 1}"
    )


def test_a_taken_port_is_refused_before_anything_starts(home):
    umask = os.umask(0)
    os.umask(umask)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUse, match=r"in use on 127\.0\.0\.1"):
            superlink.start(home, settings(taken.getsockname()[1]))
    assert not (home.folder / "superlink.log").exists()
    now = os.umask(umask)
    assert now == umask


def test_an_address_of_another_machine_is_refused(home):
    with pytest.raises(PortInUse):
        superlink.start(home, settings(18_443, host="192.0.2.1"))


@pytest.mark.parametrize("host", ["127.0.0.1", "hub.example"])
def test_flowers_command_line_is_told_where_the_superlink_is(host, home):
    superlink.write_connection(home, settings(18_443, host=host))
    path = home.flower / "config.toml"
    told = tomllib.loads(path.read_text())["superlink"]
    assert told[told["default"]]["address"] == f"{host}:18443"
    assert told[told["default"]]["root-certificates"] == str(home.certificates / "ca.crt")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_flower_is_quiet_and_finds_the_folder(home):
    told = superlink.environment(home)
    assert told["FLWR_TELEMETRY_ENABLED"] == "0"
    assert told["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert told["FLWR_HOME"] == str(home.flower)
    assert told["MOTET_COORDINATOR"] == str(home.folder)
