"""The SuperLink: refused on a taken port before anything starts; its environment is quiet and its files private."""

import os
import socket
import stat
import sys
import time
import tomllib

import pytest

from common.errors import ConfigError, PortInUse
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


@pytest.fixture
def hanging_flower(tmp_path, monkeypatch):
    """A `flwr` that never answers, in place of Flower's."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "flwr"
    program.write_text("#!/bin/sh\necho $$ > " + str(tmp_path / "pid") + "\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(superlink, "COMMAND_S", 0.5)
    return tmp_path / "pid"


def test_a_flower_that_does_not_answer_ends_with_a_sentence_and_leaves_no_process(home, hanging_flower):
    started = time.monotonic()
    with pytest.raises(ConfigError, match="did not take the run"):
        superlink.submit(home, run="0123")
    assert not superlink.active(home, run_id=1)
    superlink.stop(home, run_id=1)
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(hanging_flower.read_text()), 0)
