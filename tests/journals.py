"""Journals for tests of the live view: a real run in memory with losses, and the coordinator's folder around it."""

import json
import shutil
from pathlib import Path
from typing import Any

from common import wire
from common.study import Study
from server.config import Home
from tests import federation
from tests.federation import Federation, kind

LOST_ROUND = 3


def run(one: Federation, **study: Any) -> tuple[Path, Study, dict[str, Any]]:
    """Run a study in which one upload of hosp-b is lost; return the run's folder, the study and the result."""
    wanted = federation.study(**{"training": {"steps": 5}, **study})
    one.approve(wanted)

    def after(name: str, data: bytes) -> bytes | None:
        lost = name == "hosp-b" and kind(data) == "upload" and wire.peek(data).body["round"] == LOST_ROUND
        return None if lost else data

    one.after = after
    result = one.run(wanted)
    (folder,) = one.folder.glob("run-*")
    (folder / "study.json").write_bytes(wanted.canonical_bytes())
    return folder, wanted, result


def events(folder: Path) -> list[dict[str, Any]]:
    """The journal's events."""
    return [json.loads(line) for line in (folder / "journal.jsonl").read_bytes().splitlines()]


def coordinator(folder: Path, *, run: Path | None, name: str = "0123456789abcdef") -> Home:
    """Make what the live view reads of a coordinator's folder, with `run` under `name`."""
    home = Home(folder)
    home.runs.mkdir(parents=True, exist_ok=True)
    if run is not None:
        shutil.copytree(run, home.runs / name)
    return home
