"""How motet-audit ends: which exit code each finding has, and what a user is told."""

from collections.abc import Mapping
from typing import NoReturn

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
5 undeclared egress; 64 usage (a file cannot be read or is not ours, an option is
wrong)."""


def exit_code(error: MotetError) -> int:
    """Return the exit code of a finding."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), error.exit_code)


def fail(error: MotetError) -> NoReturn:
    """Print what happened and end with its exit code."""
    Console(stderr=True, highlight=False).print(escape(printable(str(error))), soft_wrap=True)
    raise typer.Exit(exit_code(error)) from None
