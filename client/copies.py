"""motet-hospital deidentify: pseudonymised copies of the hospital's images, for use inside it; nothing of them is sent."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client import pseudonym as pseudonyms
from client.config import Home, pseudonym_key, read_site
from client.options import AsJson, Folder
from common import files
from common.errors import NoScans

out = Console(highlight=False)


def deidentify(
    home: Folder,
    folder: Annotated[Path, typer.Argument(help="New folder for the copies: PATIENT/INSTANCE.dcm, pseudonyms, 0600.")],
    as_json: AsJson = False,  # noqa: FBT002  (a flag)
) -> None:
    """Write a pseudonymised copy of every image and binary segmentation in `scans`, as far as an allow-list of attributes goes.

    The patient's pseudonym is that of the studies. Copies are for use inside the hospital: pseudonymous data are personal
    data, and a head can be recognised from its voxels. Images that may have text burned in get none, nor do structure sets.
    """
    from client.imaging.deidentify import deidentified  # noqa: PLC0415  (pulls numpy in)
    from client.imaging.found import Reason  # noqa: PLC0415
    from client.imaging.guard import Guard  # noqa: PLC0415
    from client.imaging.scan import refuse_absent  # noqa: PLC0415

    made = Home(home)
    site, pseudonym = read_site(made), pseudonyms.under(pseudonym_key(made))
    refuse_absent(site.scans, written=folder)
    if not any(names for _, _, names in os.walk(site.scans, followlinks=False)):
        raise NoScans(
            "There are no files in the folder of scans.", action="Check `scans` in site.toml, and that its disk is mounted."
        )
    files.refuse_remains(folder.parent, names=(folder.name,))
    folder.mkdir(parents=True, mode=0o700)
    counts: Counter[str] = Counter()
    with Guard() as reader, Console(stderr=True).status("reading scans") as shown:
        for place, _, names in os.walk(site.scans, followlinks=False):
            for name in sorted(names):
                done = deidentified(Path(place) / name, reader=reader, pseudonym=pseudonym)
                counts[done.value if isinstance(done, Reason) else "copied"] += 1
                shown.update(f"reading scans: {counts.total()} files")
                if not isinstance(done, Reason):
                    patient, instance, data = done
                    (folder / patient).mkdir(mode=0o700, exist_ok=True)
                    files.write(folder / patient / f"{instance}.dcm", data, private=True)
    if as_json:
        out.print_json(json.dumps({"counts": dict(counts.most_common())}))
        return
    out.print(", ".join(f"{count} {what}" for what, count in counts.most_common()))
