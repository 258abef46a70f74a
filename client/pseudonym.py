"""The keyed hash under which this hospital knows a patient, a series or a file: the same in every study, told to nobody."""

import hashlib
import hmac
from collections.abc import Callable

DIGITS = 32  # hexadecimal


def under(secret: bytes) -> Callable[[str, str], str]:
    """Return what makes pseudonyms under a secret, of what kind of thing it is and its raw identifier."""
    return lambda kind, raw: hmac.new(secret, f"{kind}\0{raw}".encode(), hashlib.sha256).hexdigest()[:DIGITS]
