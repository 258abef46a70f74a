"""How a command line ends: a clear error and its exit code, never a traceback for a user's mistake."""

import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from typing import Annotated, NoReturn

import click
import typer
from rich.console import Console
from typer.core import TyperArgument, TyperGroup
from typing_extensions import override

from common import logs
from common.errors import ConfigError, MotetError

USAGE = 64
INTERRUPTED = 130
INTERNAL = 70

EXIT_CODES = """\b
Exit codes: 0 done · 10-19 a file or option is wrong · 20-29 refused by policy · 30-39 scans or tables ·
40-49 the other side misbehaved · 50-59 a record does not hold · 64 usage · 70 our bug · 130 interrupted."""


def _tell_version(wanted: bool) -> None:  # noqa: FBT001  (typer's callback)
    if wanted:
        click.echo(f"motet {metadata.version('motet')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_tell_version)]


class Group(TyperGroup):
    """Commands that show the help of their arguments, too: under click 8.5 an argument forgets the help that typer gave it."""

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        said = {} if command is None or command.callback is None else inspect.signature(command.callback).parameters
        for argument in command.params if command else ():
            if isinstance(argument, TyperArgument) and not argument.help and argument.name in said:
                for note in getattr(said[argument.name].annotation, "__metadata__", ()):
                    argument.help = getattr(note, "help", None) or argument.help
        return command


def with_version(app: typer.Typer) -> typer.Typer:
    """Give a command line the option --version."""

    @app.callback()
    def _root(*, version: Version = False) -> None:
        pass

    return app


def run(app: typer.Typer, *, unread: int = 0) -> NoReturn:
    """Run a command line to its end and leave with the documented exit code, or `unread` where its pipe was closed."""
    run_function(lambda: app(standalone_mode=False), unread=unread)


def run_function(main: Callable[[], object], *, unread: int = 0) -> NoReturn:
    """Run `main` and leave with 0, with the integer it returns, or with the exit code of the error that it raises.

    With `unread` where who reads standard output went away before its end.

    An error that nobody foresaw, here or in a thread, is told by its type and place: neither its text nor a local variable.
    """
    logs.start("motet")
    before, threading.excepthook = threading.excepthook, _thread_ended
    errors = Console(stderr=True, highlight=False)
    try:
        code = main()
        sys.stdout.flush()  # here, as an error at the interpreter's end is told otherwise
    except MotetError as error:
        errors.print("error:", str(error), style="red", markup=False, soft_wrap=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = USAGE
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit) as ended:
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # click and rich make of a closed pipe exit code 1
        code = unread
    except OSError as error:
        text = f"{error.filename or 'A file'}: {error.strerror or 'failed'}. Check the path, its permissions and the disk."
        errors.print("error:", text, style="red", markup=False, soft_wrap=True)
        code = ConfigError.exit_code
    except Exception as error:  # noqa: BLE001  (a traceback shows values of whatever was computed, a patient's among them)
        logs.internal_error(logging.getLogger("motet"), error)
        errors.print("error:", "This is a bug of ours. Report it, with the line above.", style="red", markup=False)
        code = INTERNAL
    finally:
        threading.excepthook = before
    sys.exit(code if isinstance(code, int) else 0)


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        logs.internal_error(logging.getLogger("motet"), ended.exc_value)
