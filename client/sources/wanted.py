"""What is asked of a PACS: studies by their UIDs or by dates, and which modalities of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import files
from common.errors import ConfigError

MODALITIES: Final = ("CT", "MR", "CR", "DX", "SEG", "RTSTRUCT")
DATES: Final = re.compile(r"[0-9]{8}-[0-9]{8}\Z")
UID: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+\Z")
CODE: Final = re.compile(r"[A-Z]{2,16}\Z")
STUDIES_MOST: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Studies by `studies` (their StudyInstanceUIDs) or, where that is empty, all of `dates`; of them, `modalities`."""

    studies: tuple[str, ...]
    dates: str  # YYYYMMDD-YYYYMMDD; "" where studies are named
    modalities: tuple[str, ...]


def wanted(*, studies: Path | None, dates: str | None, modalities: Sequence[str]) -> Wanted:
    """Return what the options ask; raises ConfigError unless exactly one of `studies` and `dates` is given, and well formed.

    `studies` is a text file, one StudyInstanceUID a line.
    """
    if (studies is None) == (dates is None):
        raise ConfigError("What to pull is not said.", action="Give either --studies FILE or --dates YYYYMMDD-YYYYMMDD.")
    if not modalities or not all(CODE.match(one) for one in modalities):
        raise ConfigError("A modality is malformed.", action="Give its code, for example --modality CT.")
    if studies is None:
        if not DATES.match(dates or ""):
            raise ConfigError("The dates are malformed.", action="Give --dates YYYYMMDD-YYYYMMDD.")
        return Wanted(studies=(), dates=dates or "", modalities=tuple(modalities))
    named = [
        line.strip()
        for line in files.read(studies, most_bytes=STUDIES_MOST * 70).decode("ascii", "replace").splitlines()
        if line.strip()
    ]
    for number, uid in enumerate(named, start=1):
        if not UID.match(uid) or len(uid) > 64:
            raise ConfigError(f"Study {number} of the file is no UID.", action="Put one StudyInstanceUID on each line.")
    if not 0 < len(named) <= STUDIES_MOST:
        raise ConfigError("The file names no study, or too many.", action=f"Name 1 to {STUDIES_MOST} studies.")
    return Wanted(studies=tuple(dict.fromkeys(named)), dates="", modalities=tuple(modalities))
