"""The report's tables as CSV files beside it: every digit, for whoever goes on computing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import files
from server import private_sections
from server.sections import sections
from server.told import told


def write(result: Mapping[str, Any], *, folder: Path) -> tuple[str, ...]:
    """Write the tables of the models and the declared analyses of `result` as folder/NN-title-caption.csv; return their names.

    UTF-8, commas, one header row, numbers with all their digits, nothing where there is no number. The folder is made.
    """
    folder.mkdir(exist_ok=True)
    names: list[str] = []
    private = private_sections.sections(result.get("private_gram"))
    for section in (*sections(result.get("linear")), *private, *told(result.get("analyses") or ())):
        for table in section["tables"]:
            name = f"{len(names) + 1:02d}-{_plain(section['title'], 40)}-{_plain(table['caption'], 24)}.csv"
            files.write(folder / name, table["csv"].encode())
            names.append(name)
    return tuple(names)


def _plain(text: str, most: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:most].strip("-")
