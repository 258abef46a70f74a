"""Logs: one JSON line per event, allow-listed fields, and no text that another library or the other side wrote."""

import ast
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from common import logs
from common.errors import HospitalMissing

SECRET = "Mustermann^Erika 1961-04-01"


@pytest.fixture
def lines(capsys):
    """Start the log, and return what it wrote as one object per line."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.start("motet.test")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_an_event_is_one_json_line_with_its_time_in_utc(lines):
    logging.getLogger("motet.test").warning("refused", extra={"code": "E-REFUSED", "round": 3, "hospital": "hosp-a"})
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    expected = {"level": "warning", "logger": "motet.test", "event": "refused", "code": "E-REFUSED", "round": 3}
    assert line == {**expected, "hospital": "hosp-a"}


def test_a_field_that_is_not_named_is_left_out_and_a_value_with_blanks_is_hidden(lines):
    logging.getLogger("motet.test").info("refused", extra={"patient": SECRET, "hospital": SECRET, "seconds": float("nan")})
    (line,) = lines()
    assert "patient" not in line
    assert (line["hospital"], line["seconds"]) == ("?", "?")


@pytest.mark.parametrize("argument", [SECRET, "Mustermann", "PAT-00017", ValueError(SECRET), {"name": SECRET}, SECRET.encode()])
def test_a_template_is_filled_with_codes_and_numbers_only(lines, argument):
    logging.getLogger("motet.relay").warning("the vault said %s, %d times: %s", argument, 3, "E-VAULT")
    (line,) = lines()
    assert line["text"] == "the vault said ?, 3 times: E-VAULT"


def test_of_an_exception_there_is_its_type_and_place_and_no_text(lines):
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("motet.test").exception("internal-error")
    (line,) = lines()
    assert line["error"] == "ValueError"
    assert line["at"].startswith("test_logs.py:")
    assert "Mustermann" not in json.dumps(line)


def test_an_internal_error_is_told_by_type_and_place_whoever_formats_it(lines, caplog):
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        logs.internal_error(logging.getLogger("motet.test"), error)
    (line,) = lines()
    assert (line["event"], line["error"], line["at"].partition(":")[0]) == ("internal-error", "ValueError", "test_logs.py")
    assert "Mustermann" not in caplog.text


def test_our_own_errors_say_what_happened_and_what_to_do(lines):
    logging.getLogger("motet.coordinator").error("%s", HospitalMissing("Two are missing.", action="Start them."))
    assert lines()[0]["text"] == "Two are missing. Start them."


def test_another_librarys_text_never_appears(lines):
    logging.getLogger("pydicom").warning("Invalid value for VR PN: '%s'", SECRET)
    logging.getLogger("pydicom").info("nothing grave: %s", SECRET)
    (line,) = lines()
    assert (line["logger"], line["level"], line["event"]) == ("pydicom", "warning", "other-library")
    assert "Mustermann" not in json.dumps(line)


@pytest.mark.parametrize("message", ["two\nlines", "\x1b[2Jclear", "\u2028", "x" * 10_000])
def test_no_message_breaks_the_line(lines, message):
    logging.getLogger("motet.test").info(message)
    (line,) = lines()
    assert line["event"] == "said"
    assert len(line["text"]) <= logs.TEXT_MOST


def test_a_template_that_does_not_fit_its_arguments_is_hidden():
    record = logging.LogRecord("motet.test", logging.INFO, "", 0, "half a %s template %d", ("E-X",), None)
    assert json.loads(logs.JsonLines().format(record))["text"] == "?"


def test_a_second_start_does_not_write_twice(lines):
    logs.start("motet.test").info("once-only")
    assert len(lines()) == 1


def test_a_terminal_gets_readable_text_that_cannot_steer_it(monkeypatch):
    record = logging.LogRecord("motet.test", logging.INFO, "", 0, "said \x1b[2J", (), None)
    record.code = "E-X"
    text = logs.Readable().format(record)
    assert "info    motet.test said code=E-X said ?[2J" in text
    assert not text.startswith("{")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.start("motet.test")
    assert isinstance(root.handlers[-1].formatter, logs.Readable)
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_a_process_without_a_terminal_writes_json():
    code = "from common import logs; logs.start('motet.relay').warning('link-lost', extra={'hospital': 'hosp-b'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stderr)["event"] == "link-lost"


def test_no_field_that_the_product_logs_is_left_out():
    root, found = Path(logs.__file__).parent.parent, {}
    for path in (path for part in ("client", "common", "server") for path in (root / part).rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "log." in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                given = [one.value for one in node.keywords if one.arg == "extra" and isinstance(one.value, ast.Dict)]
                found |= {key.value: path.name for one in given for key in one.keys if isinstance(key, ast.Constant)}
    assert {"code", "objects"} <= found.keys()
    assert {name: where for name, where in found.items() if name not in logs.FIELDS} == {}
