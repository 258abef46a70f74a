"""The three command lines as a user types them: in this process, or each in one of its own; and what a first call needs."""

import io
import logging
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client import cli as hospital_cli
from common import cli as audit_cli
from common import enrolment
from common.roster import Member
from server import cli as coordinator_cli
from tests import federation

STUDY_FILE = Path(federation.__file__).parents[1] / "deploy" / "demo" / "study.toml"
COORDINATOR = ("--name", "hub", "--federation", "fed", "--address", "127.0.0.1:1")
HOSPITAL = (
    *("--name", "hosp-a", "--scans", "scans", "--clinical", "c.csv", "--epsilon-cap", "3", "--delta-cap", "1e-6"),
    *("--hospitals-min", "3", "--colluders-min", "1", "--patients-min", "5", "--exact-releases-max", "9"),
)
WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
PROGRAMS = {"motet-coordinator": coordinator_cli, "motet-hospital": hospital_cli, "motet-audit": audit_cli}


def _here(program, arguments, *, said, complained):
    """Run a command line in this process and return how it ended; anything but SystemExit is a traceback."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complained):
        patch.setattr(sys, "argv", [program, *map(str, arguments)])
        for name, value in WIDE.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            PROGRAMS[program].main()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    return end.value.code


def motet(*arguments, program):
    """Run a command line in this process; return the exit code and all that it said; any other error is a traceback."""
    said = io.StringIO()
    code = _here(program, arguments, said=said, complained=said)
    return code, said.getvalue()


hospital = partial(motet, program="motet-hospital")
coordinator = partial(motet, program="motet-coordinator")


def audit(*arguments):
    """Run `motet-audit` here: it ends with SystemExit and nothing else, in a fraction of a process's time."""
    said, complained = io.StringIO(), io.StringIO()
    code = _here("motet-audit", arguments, said=said, complained=complained)
    return subprocess.CompletedProcess(arguments, code or 0, said.getvalue(), complained.getvalue())


def as_process(program, *arguments):
    """Run a command line as a user does; return the exit code and all that it said."""
    done = subprocess.run(
        [Path(sys.executable).parent / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return done.returncode, said


def ask(app, *arguments):
    """Run a command of an app in this process, for what needs no exit code of `main`, and return what it said."""
    result = CliRunner(env=WIDE).invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def request(folder, name):
    """Write a hospital's request to enrol and return its path."""
    key = Ed25519PrivateKey.generate()
    member = Member(
        name=name, identity=key.public_key().public_bytes_raw().hex(), ledger_key="x", node_key="x", relay_certificate=""
    )
    path = folder / f"{name}.{len(list(folder.iterdir()))}.json"
    path.write_bytes(enrolment.request(member, key=key))
    return path
