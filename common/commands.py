"""How a command line ends: a clear error and its exit code, never a traceback for a user's mistake."""

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import click
import typer
from rich.console import Console

from common.errors import ConfigError, MotetError

USAGE = 64
INTERRUPTED = 130
INTERNAL = 70

EXIT_CODES = """\b
Exit codes: 0 done · 10-19 a file or option is wrong · 20-29 refused by policy · 30-39 scans or tables ·
40-49 the other side misbehaved · 50-59 a record does not hold · 64 usage · 70 our bug · 130 interrupted."""


def run(app: typer.Typer) -> NoReturn:
    """Run a command line to its end and leave with the documented exit code."""
    run_function(lambda: app(standalone_mode=False))


def run_function(main: Callable[[], object]) -> NoReturn:
    """Run `main` and leave with 0, with the integer it returns, or with the exit code of the error that it raises."""
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    errors = Console(stderr=True, highlight=False)
    try:
        code = main()
    except MotetError as error:
        errors.print("error:", str(error), style="red", markup=False, soft_wrap=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = USAGE
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        text = f"{error.filename or 'A file'}: {error.strerror or 'failed'}. Check the path, its permissions and the disk."
        errors.print("error:", text, style="red", markup=False, soft_wrap=True)
        code = ConfigError.exit_code
    sys.exit(code if isinstance(code, int) else 0)
