"""Canonical JSON: one value, one byte string. Everything that is hashed or signed goes through here."""

import hashlib
import json
import unicodedata
from decimal import Decimal
from typing import Any

LARGEST_INTEGER = 2**53

NOT_CANONICAL = "canonical JSON holds null, booleans, integers below 2**53, strings, lists and string-keyed objects"


def _no_number(_text: str) -> None:
    raise ValueError(NOT_CANONICAL)


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) >= LARGEST_INTEGER:
        raise ValueError("integer too large for canonical JSON")
    return value


_READER = json.JSONDecoder(parse_float=_no_number, parse_constant=_no_number, parse_int=_integer)
_WRITER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def encode(value: Any) -> bytes:  # noqa: ANN401  (any JSON value; the check is the purpose)
    """Return the canonical bytes of `value`.

    Sorted keys, no spaces, UTF-8, strings NFC, integers below 2**53, no floats; a Decimal becomes its plain string.
    Raises TypeError or ValueError on anything else.
    Source: a subset of RFC 8785 that needs no float formatting.
    """
    return _WRITER.encode(_plain(value)).encode()


def decode(data: bytes) -> Any:  # noqa: ANN401
    """Parse canonical bytes; raises ValueError when `data` is not exactly what `encode` would write."""
    try:
        if data.isascii():  # then strings are NFC as they are, and only numbers are left to check
            value = _READER.decode(data.decode())
            again = _WRITER.encode(value).encode()
        else:
            value = json.loads(data)
            again = encode(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(NOT_CANONICAL) from error
    if again != data:
        raise ValueError("not canonical JSON")
    return value


def digest(value: Any) -> str:  # noqa: ANN401
    """Return the SHA-256 of the canonical bytes, as 64 hex digits."""
    return hashlib.sha256(encode(value)).hexdigest()


def decimal_text(value: Decimal) -> str:
    """Return the one spelling of a decimal: no exponent, no trailing zeros."""
    if not value.is_finite():
        raise ValueError("a decimal must be finite")
    text = format(value.normalize(), "f")
    return "0" if text in {"-0", "0"} else text


def _plain(value: Any) -> Any:  # noqa: ANN401
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, int):
        if abs(value) >= LARGEST_INTEGER:
            raise ValueError("integer too large for canonical JSON")
        return value
    if isinstance(value, Decimal):
        return decimal_text(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        plain = {unicodedata.normalize("NFC", key): _plain(item) for key, item in value.items()}
        if len(plain) != len(value):
            raise ValueError("two keys are spelt alike")
        return plain
    raise TypeError(NOT_CANONICAL)
