"""Canonical JSON: one value, one byte string; nothing else is read or written."""

import hashlib
from decimal import Decimal

import pytest

from common import canonical


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        (True, b"true"),
        (-(2**53) + 1, b"-9007199254740991"),
        ("é\n\u2028", '"é\\n\u2028"'.encode()),
        ({"b": [1, ()], "a": {}}, b'{"a":{},"b":[1,[]]}'),
        (Decimal("1.500E+2"), b'"150"'),
        (Decimal("-0.0"), b'"0"'),
        (Decimal("1e-5"), b'"0.00001"'),
        ("e\u0301", '"\u00e9"'.encode()),
    ],
)
def test_a_value_has_one_spelling(value, data):
    assert canonical.encode(value) == data
    assert canonical.encode(canonical.decode(data)) == data
    assert canonical.digest(value) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf"), b"x", {1}, {1: 2}, {None: 1}, object(), [1, [2.5]], 1j])
def test_what_json_has_no_exact_form_for_is_refused(value):
    with pytest.raises(TypeError, match="canonical JSON holds"):
        canonical.encode(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), 10**4000, "\ud800", {"\udfff": 1}, Decimal("NaN"), Decimal("-Infinity")])
def test_a_value_that_others_would_read_differently_is_refused(value):
    with pytest.raises(ValueError):
        canonical.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"nul",
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        b"9007199254740992",
        b"9" * 5000,
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b"[1]\n",
        b"\xef\xbb\xbf[1]",
        b'"\\ud800"',
        b'"\\u00e9"',
        b'"e\xcc\x81"',
        b'"\xff"',
        b'"\\/"',
        "[1]".encode("utf-16"),
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_bytes_that_encode_would_not_write_are_refused(data):
    with pytest.raises(ValueError):
        canonical.decode(data)


@pytest.mark.parametrize(("number", "text"), [("1E+3", "1000"), ("0.10", "0.1"), ("-0", "0"), ("-2.50", "-2.5"), ("0E-9", "0")])
def test_a_decimal_has_one_spelling(number, text):
    assert canonical.decimal_text(Decimal(number)) == text


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_a_decimal_that_is_no_number_is_refused(number):
    with pytest.raises(ValueError, match="finite"):
        canonical.decimal_text(Decimal(number))
