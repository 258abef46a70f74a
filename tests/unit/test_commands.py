"""How a command line ends: the documented exit code and one sentence, never a traceback for a user's mistake."""

import inspect
import logging
import sys
import threading
from importlib import metadata

import click
import pytest
import typer
from typer.testing import CliRunner

from client import cli as client_cli
from common import cli as audit_cli
from common import commands, errors
from common.errors import MotetError
from server import cli as server_cli


@pytest.fixture(autouse=True)
def same_logging():
    before = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    logging.getLogger().handlers[:], level = before
    logging.getLogger().setLevel(level)


def ended(main):
    with pytest.raises(SystemExit) as end:
        commands.run_function(main)
    return end.value.code


def families():
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MotetError)]


def raised(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", families(), ids=lambda kind: kind.__name__)
def test_every_error_ends_with_its_own_code_and_says_what_to_do(kind, capsys):
    arguments = {"NotEstimable": {"term": "x"}}.get(kind.__name__, {})
    error = kind("gap") if kind is errors.GeometryRefused else kind("What happened.", action="Do [this].", **arguments)
    assert ended(raised(error)) == kind.exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: {error}\n"
    assert error.action in said.err


SECRET = "Muster^Erika"


def fails_with_a_secret():
    name = SECRET
    raise ValueError(f"could not read {name!r}")


def test_what_nobody_foresaw_is_told_by_type_and_place_and_ends_with_70(capsys):
    assert ended(fails_with_a_secret) == commands.INTERNAL
    said = capsys.readouterr()
    assert "ValueError" in said.err
    assert "test_commands.py:" in said.err
    assert "bug of ours" in said.err
    assert SECRET not in said.out + said.err
    assert "Traceback" not in said.err


def test_a_command_that_fails_shows_no_local_variable(capsys, monkeypatch):
    app = typer.Typer()
    app.command()(fails_with_a_secret)
    monkeypatch.setattr(sys, "argv", ["motet-hospital"])
    with pytest.raises(SystemExit) as end:
        commands.run(app)
    assert end.value.code == commands.INTERNAL
    assert SECRET not in "".join(capsys.readouterr())


def test_a_thread_that_fails_is_told_alike_and_the_hook_is_given_back(capsys):
    before = threading.excepthook

    def main():
        worker = threading.Thread(target=fails_with_a_secret)
        worker.start()
        worker.join()

    assert ended(main) == 0
    said = capsys.readouterr()
    assert "ValueError" in said.err
    assert SECRET not in said.out + said.err
    assert threading.excepthook is before


def test_no_two_errors_share_a_code():
    codes = [kind.exit_code for kind in families() if kind is not MotetError]
    names = [kind.code for kind in families() if kind is not MotetError]
    assert len(set(codes)) == len(codes)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("family", "codes"),
    [
        (errors.ConfigError, range(10, 20)),
        (errors.RefusedError, range(20, 30)),
        (errors.DataError, range(30, 40)),
        (errors.ProtocolError, range(40, 50)),
        (errors.AuditError, range(50, 60)),
        (errors.InternalError, range(70, 71)),
    ],
)
def test_a_family_keeps_to_its_range(family, codes):
    assert all(kind.exit_code in codes for kind in families() if issubclass(kind, family))


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3), ("text", 0)])
def test_a_result_that_is_an_integer_is_the_code(result, code):
    assert ended(lambda: result) == code


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), click.exceptions.Abort()])
def test_an_interruption_is_130(interruption):
    assert ended(raised(interruption)) == 130


@pytest.mark.parametrize("app", [client_cli.app, server_cli.app, audit_cli.app], ids=["hospital", "coordinator", "audit"])
def test_each_command_line_tells_its_version(app):
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.output) == (0, f"motet {metadata.version('motet')}\n")


def test_a_wrong_option_is_64(capsys):
    assert ended(raised(click.UsageError("no such option"))) == 64
    assert "no such option" in capsys.readouterr().err


def test_a_command_line_ends_with_the_code_that_it_exits_with(monkeypatch):
    app = typer.Typer()

    @app.command()
    def leave() -> None:
        raise typer.Exit(7)

    monkeypatch.setattr("sys.argv", ["leave"])
    with pytest.raises(SystemExit) as end:
        commands.run(app)
    assert end.value.code == 7


@pytest.mark.parametrize("app", [client_cli.app, server_cli.app, audit_cli.app], ids=["hospital", "coordinator", "audit"])
def test_every_argument_of_every_command_says_what_it_is(app):
    group = typer.main.get_command(app)
    context = click.Context(group)
    found = [(name, one) for name in group.commands for one in group.get_command(context, name).params]
    arguments = [(name, one) for name, one in found if one.param_type_name == "argument"]
    assert arguments
    assert [(name, one.name) for name, one in arguments if not one.help] == []
