"""Structured logs on stderr: one JSON line per event, or readable text on a terminal; no foreign text, no patient value."""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from typing_extensions import override

from common.errors import MotetError

FIELDS: Final = frozenset(  # what `extra` may carry; anything else is left out
    {
        "aet",
        "at",
        "attempt",
        "bytes",
        "code",
        "error",
        "hospital",
        "hospitals",
        "index",
        "objects",
        "port",
        "round",
        "run",
        "seconds",
        "state",
        "status",
    }
    | {"step", "steps", "study", "task", "why"}
)
EVENT: Final = re.compile(r"[a-z][a-z0-9-]{1,39}\Z")
WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}\Z")  # names, codes, hashes; nothing with a blank in it
CODE: Final = re.compile(
    r"E-[A-Z-]{1,40}\Z|[A-Z][A-Za-z]{0,60}(Error|Exception|Interrupt)\Z"
)  # what a template may be filled with
TEXT_MOST: Final = 400
HIDDEN: Final = "?"


def start(name: str) -> logging.Logger:
    """Send this process's log to stderr, structured; return the logger `name`. A second call replaces the first.

    JSON lines where stderr is no terminal: time (UTC), level, logger, event, then the fields of `extra` that FIELDS names.
    Guarantee: a record of ours shows its own template with numbers and codes filled in, of an exception its type and place,
    and the text of a MotetError, which holds no patient value; a record of another library shows where it comes from and how
    grave it is, never its text, which could quote a scan or the other side.
    """
    root = logging.getLogger()
    for earlier in [one for one in root.handlers if type(one) in {logging.StreamHandler, Stderr}]:
        root.removeHandler(earlier)
    handler = Stderr()
    handler.setFormatter(Readable() if sys.stderr.isatty() else JsonLines())
    handler.addFilter(lambda record: _ours(record) or record.levelno >= logging.WARNING)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    return logging.getLogger(name)


def internal_error(log: logging.Logger, error: BaseException) -> None:
    """Log a bug of ours by its type and place, never by its text or traceback, whoever formats the record."""
    log.error("internal-error", extra={"error": type(error).__name__, "at": _place(error.__traceback__)})


class Stderr(logging.Handler):
    """Writes to whatever stderr is now; a closed pipe ends no work."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


class JsonLines(logging.Formatter):
    """One JSON object per record."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON, without a newline in it."""
        return json.dumps(_facts(record), allow_nan=False)


class Readable(logging.Formatter):
    """The same facts for a person's eyes."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of text that cannot steer a terminal."""
        facts = _facts(record)
        head = f"{facts.pop('time')} {facts.pop('level'):7} {facts.pop('logger')} {facts.pop('event')}"
        rest = " ".join(f"{key}={value}" for key, value in facts.items() if key != "text")
        return "".join(letter if letter.isprintable() else HIDDEN for letter in " ".join((head, rest, facts.get("text", ""))))


def _ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == "motet"


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    facts: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "logger": record.name}
    if not _ours(record):
        return {**facts, "event": "other-library"}
    if isinstance(record.msg, str) and EVENT.match(record.msg):
        facts["event"] = record.msg
    else:
        facts |= {"event": "said", "text": _text(record)}
    facts |= {key: _value(value, words=WORD) for key, value in vars(record).items() if key in FIELDS and value is not None}
    if record.exc_info and record.exc_info[0]:
        facts |= {"error": record.exc_info[0].__name__, "at": _place(record.exc_info[2])}
    return facts


def _text(record: logging.LogRecord) -> str:
    """Return the template with its arguments; an argument that could be foreign text is hidden."""
    arguments = record.args or ()
    shown: Any = (
        {key: _value(value, words=CODE) for key, value in arguments.items()}
        if isinstance(arguments, Mapping)
        else tuple(_value(value, words=CODE) for value in arguments)
    )
    if isinstance(record.msg, MotetError):
        return str(record.msg)[:TEXT_MOST]
    try:
        return (str(record.msg) % shown if shown else str(record.msg))[:TEXT_MOST]
    except (TypeError, ValueError, KeyError):
        return HIDDEN


def _value(value: object, *, words: re.Pattern[str]) -> Any:  # noqa: ANN401
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 3) if abs(value) < 1e15 else HIDDEN  # nan and infinity are no JSON
    if isinstance(value, MotetError):
        return str(value)[:TEXT_MOST]
    return value if isinstance(value, str) and words.match(value) else HIDDEN


def _place(trace: TracebackType | None) -> str:
    """Return where an exception was raised: file and line, no path of the machine, no text."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return HIDDEN if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
