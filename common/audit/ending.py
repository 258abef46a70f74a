"""How motet-audit ends: which exit code each finding has, and what a user is told."""

from collections.abc import Mapping
from typing import NoReturn

import click
import typer
from rich.console import Console
from rich.markup import escape

from common.audit.show import printable
from common.errors import (
    AccountantsDisagree,
    CapPassed,
    ConfigError,
    MotetError,
    RecordDamaged,
    UndeclaredEgress,
    Unwitnessed,
)

OK, INTEGRITY, OVER_BUDGET, UNWITNESSED, DISAGREE, EGRESS, USAGE = 0, 1, 2, 3, 4, 5, 64
UNWRITTEN = ConfigError.exit_code
EXIT_CODES: Mapping[type[MotetError], int] = {
    ConfigError: USAGE,
    RecordDamaged: INTEGRITY,
    CapPassed: OVER_BUDGET,
    Unwitnessed: UNWITNESSED,
    UndeclaredEgress: EGRESS,
    AccountantsDisagree: DISAGREE,
}

CODES_HELP = """Exit codes: 0 all hold; 1 integrity (a record was changed, is malformed, or is of another roster than yours);
2 over budget (a cap was passed); 3 fewer witnesses than asked for, or older than what they saw; 4 the accountants disagree;
5 undeclared egress; 6 of `attack`: the code does not do what it claims; 10 what is printed cannot be written (the disk is
full, or who reads it went away); 64 usage (a file cannot be read or written, or is not ours, an option is wrong); 70 our bug;
130 interrupted."""
NOT_PINNED = "The roster was not pinned: get its hash from elsewhere and pass --roster-hash."


def exit_code(error: MotetError) -> int:
    """Return the exit code of a finding."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), error.exit_code)


def check_pin(roster_hash: str | None) -> None:
    """Raise UsageError unless a given --roster-hash is one."""
    if roster_hash is not None and (len(roster_hash) != 64 or set(roster_hash) - set("0123456789abcdef")):
        raise click.UsageError("--roster-hash must be 64 lower-case hex digits")


def fail(error: MotetError, *, about: str = "") -> NoReturn:
    """Print what happened, to which file where one of several is meant, and end with its exit code."""
    said = f"{about}: {error}" if about else str(error)
    Console(stderr=True, highlight=False).print(escape(printable(said)), soft_wrap=True)
    raise typer.Exit(exit_code(error)) from None
