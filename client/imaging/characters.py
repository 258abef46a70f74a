"""Text of a data set in the character set that it names, where pydicom gets it wrong."""

import re
from typing import Final

from pydicom.dataset import Dataset

GB2312: Final = "ISO 2022 IR 58"
_ESCAPE: Final = re.compile(rb"\x1b(\$\)A|\(B)")  # to G1: GB 2312 (PS3.3 C.12.1.1.2, Table C.12-4); to G0: ASCII


def text(ds: Dataset, keyword: str) -> str:
    """Return an element's text; "" where it is absent. Raises UnicodeDecodeError where the bytes are not of the character set.

    pydicom 3.0.2 leaves the escape sequence of GB 2312 (ISO 2022 IR 58) in the text and reads bytes after it as Latin-1.
    Source: PS3.5 6.1.2.5 and annex K.2.
    """
    if keyword not in ds:
        return ""
    sets = ds.get("SpecificCharacterSet") or ""
    named = [sets] if isinstance(sets, str) else list(sets)
    if GB2312 not in named:
        value = ds.get(keyword)
        return value if isinstance(value, str) else ""
    raw = ds.get_item(keyword)
    data = getattr(raw, "value", None)
    return gb2312(data) if isinstance(data, bytes) else str(ds.get(keyword) or "")


def gb2312(data: bytes) -> str:
    """Return text whose G1 is GB 2312 from its escape sequence on, until the end of the value or line."""
    parts, chinese, at = [], False, 0
    for escape in [*_ESCAPE.finditer(data), None]:
        end = len(data) if escape is None else escape.start()
        piece = data[at:end]
        parts.append(piece.decode("gb2312" if chinese else "ascii"))
        if escape is not None:
            chinese, at = (chinese or escape[1] == b"$)A"), escape.end()
    return "".join(parts)
