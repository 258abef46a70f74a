"""What each series gave, kept on the vault's disk under a hash of all that it followed from, so that none is measured twice."""

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.inside import Measured, Scan, View
from client.points import Point
from common import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The folder, and `asked`: the recipe, what is measured and the code that measures, as bytes.

    A key is the SHA-256 of that and of the series' content: pixels, geometry, region, acquisition, marked point; not its file
    names or times. Files are 0600 and hold pseudonyms nowhere. A file that is damaged counts as not there.
    """

    folder: Path
    asked: bytes

    def key(self, scan: Scan, *, point: Point | None) -> str:
        """Return the name under which what follows from `scan` is kept."""
        digest = hashlib.sha256(hashlib.sha256(self.asked).digest())
        made = scan.acquisition
        said = [made.manufacturer, made.kernel, repr(made.kvp), repr(made.slice_thickness_mm), repr(point)]
        same_frame = [scan.frame_of_reference.index(one) for one in scan.frame_of_reference]
        digest.update(json.dumps([*said, same_frame]).encode())
        region = (scan.region_planes, scan.region_positions_mm, scan.region_orientation, scan.region_spacing_mm)
        for array in (scan.pixels, scan.positions_mm, scan.orientations, scan.spacings_mm, *region):
            held = np.zeros(0) if array is None else np.ascontiguousarray(array)
            digest.update(f"\0{held.dtype.str} {held.shape}\0".encode())
            digest.update(held.data if held.size else b"")
        return digest.hexdigest()

    def look(self, key: str, *, scan: Scan) -> tuple[Measured, View] | None:
        """Return what is kept under `key`, as of `scan`'s patient and series; None where nothing usable is."""
        try:
            with (self.folder / f"{key}.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                measured = {str(name): float(value) for name, value in json.loads(arrays["values"].tobytes()).items()}
                pixels = arrays["pixels"]
        except Exception:  # noqa: BLE001  (a damaged zip raises almost anything; what it held is measured again)
            return None
        return Measured(patient=scan.patient, series=scan.series, values=measured), View(patient=scan.patient, pixels=pixels)

    def keep(self, key: str, *, made: tuple[Measured, View]) -> None:
        """Write what a series gave in one step; a disk that does not take it costs another measuring, nothing else."""
        measured, view = made
        buffer = io.BytesIO()
        values = np.frombuffer(json.dumps(measured.values).encode(), np.uint8)
        np.savez(buffer, allow_pickle=False, values=values, pixels=view.pixels)
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(self.folder / f"{key}.npz", buffer.getvalue(), private=True)
