"""motet-hospital scans: what was set aside and why, without a name, a path or a value."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from client.config import Home, read_site
from client.options import AsJson, Folder
from client.reasons import meaning
from common import files

if TYPE_CHECKING:
    from client.quarantine import Aside, Last

ROWS: Final = 40
out = Console(highlight=False)


def scans(
    home: Folder,
    paths_to: Annotated[
        Path | None,
        typer.Option("--paths-to", help="Also write id, reason and path to this new file, 0600: a path may hold a name."),
    ] = None,
    as_json: AsJson = False,  # noqa: FBT002  (a flag)
) -> None:
    """Show which files and series were set aside, and why. No path, no name and no value is shown.

    An id is a keyed pseudonym: the same file has the same id until the hospital's key changes. What is set aside is tried
    again when the file changes and after an upgrade; series are looked at again in each reading.
    """
    from client.quarantine import look, paths  # noqa: PLC0415  (pulls numpy in)

    made = Home(home)
    read_site(made)
    found, last = look(made.quarantine)
    if paths_to is not None:
        text = "".join(f"{one}\t{reason}\t{name}\n" for one, reason, name in paths(made.quarantine))
        files.write_new(paths_to, text.encode(), private=True)
    if as_json:
        out.print_json(json.dumps(_typed(found, last)))
        return
    _show(found, last)


def _typed(found: Sequence["Aside"], last: "Last | None") -> dict[str, object]:
    return {
        "last_reading": None if last is None else {"ended": _iso(last.ended), "usable_series": last.usable},
        "counts": _counted(found),
        "set_aside": [
            {"id": one.id, "kind": one.kind, "reason": one.reason, "since": _iso(one.since), "readings": one.readings}
            for one in found
        ],
    }


def _show(found: Sequence["Aside"], last: "Last | None") -> None:
    if last is None:
        out.print("No reading has come to its end yet; `motet-hospital vault` reads the scans of approved studies.")
    else:
        out.print(f"Last reading: {_iso(last.ended)}, {last.usable} usable series.")
    if not found:
        out.print("Nothing is set aside: no file, no series. Lesions and patients are counted in `motet-hospital status`.")
        return
    counts = Table("set aside", "reason", "meaning, and what mends it")
    for reason, count in _counted(found).items():
        counts.add_row(str(count), reason, meaning(reason))
    rows = Table("id", "kind", "reason", "since", "readings")
    for one in found[:ROWS]:
        rows.add_row(one.id, one.kind, one.reason, _iso(one.since), str(one.readings))
    out.print(counts, rows)
    if len(found) > ROWS:
        out.print(f"and {len(found) - ROWS} more: --json lists all of them.")


def _counted(found: Sequence["Aside"]) -> dict[str, int]:
    return dict(Counter(one.reason for one in found).most_common())


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
