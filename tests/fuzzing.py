"""Mutated DICOM files through the guard: what came back, and what it cost; for a test and for `make bench-scans`."""

import io
import resource
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from client.imaging import images
from client.imaging.found import Contours, Frames, Projection, Reason, Segmentation, Slice
from client.imaging.guard import Guard
from client.imaging.limits import Limits
from tests.phantoms import Ellipsoid, enhanced, volume, write_series

LENGTHS = [0, 1, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
TAGS = [0x00280010, 0x00280011, 0x00280008, 0x00280100, 0x00280002, 0x00281053, 0x00281052, 0x7FE00010, 0x00080005]
LIMITS = Limits(cpu_s=5, wall_s=20)


@dataclass(slots=True)
class Outcome:
    """`crashes`: exceptions that reached the caller, and answers that are neither an image nor a code."""

    cases: int = 0
    crashes: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    children: int = 0
    parent_mib: float = 0.0
    child_mib: float = 0.0


def seeds(folder: Path) -> list[bytes]:
    """Return small valid files of every kind that is read: slices in each codec, SEG, enhanced CT, MR, CR, deflated."""
    image = volume(Ellipsoid(semi_axes_mm=(6, 4, 3)), shape=(3, 32, 32), body_radius_mm=14)
    paths = write_series(folder, patient_id="P-1", voxels_hu=image.voxels, spacing_mm=(1, 1, 1), region=image.region)
    plain = [path.read_bytes() for path in (paths[0], paths[-1])]
    made: list[Dataset] = []
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        made.append(pydicom.dcmread(paths[0]))
        made[-1].compress(syntax, generate_instance_uid=False)
    for kind in (images.MR, images.CR):
        made.append(pydicom.dcmread(paths[1]))
        made[-1].SOPClassUID = made[-1].file_meta.MediaStorageSOPClassUID = kind
    made.append(enhanced(paths, order=range(len(paths) - 1)))
    deflated = pydicom.dcmread(paths[2])
    deflated.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    made.append(deflated)
    return plain + [_bytes(one) for one in made]


def _bytes(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def mutants(whole: Sequence[bytes], *, count: int, seed: int) -> Iterator[bytes]:  # noqa: C901  (a list of ways to break)
    """Yield `count` files: flipped bytes, cuts, doubled and lost pieces, lying lengths and counts, two files joined."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        data = bytearray(whole[rng.integers(len(whole))])
        for _ in range(int(rng.integers(1, 5))):
            at = _place(data, rng)
            match int(rng.integers(8)):
                case 0:
                    data[at] ^= 1 << int(rng.integers(8))
                case 1:
                    data[at] = int(rng.integers(256))
                case 2:
                    del data[at:]
                case 3:
                    del data[at : at + int(rng.integers(1, 64))]
                case 4:
                    data[at:at] = data[at : at + int(rng.integers(1, 256))]
                case 5:
                    form = "<I" if rng.integers(2) else "<H"
                    value = LENGTHS[rng.integers(len(LENGTHS))] & (0xFFFFFFFF if form == "<I" else 0xFFFF)
                    data[at : at + struct.calcsize(form)] = struct.pack(form, value)
                case 6:
                    _lie(data, rng)
                case _:
                    data[at:] = whole[rng.integers(len(whole))][at:]
            if not data:
                break
        yield bytes(data)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """A position; three times out of four in the header, where there is more to break."""
    return int(rng.integers(min(len(data), 1500) if rng.integers(4) else len(data)))


def _lie(data: bytearray, rng: np.random.Generator) -> None:
    """Overwrite the value of an element that decoders trust."""
    tag = TAGS[rng.integers(len(TAGS))]
    at = data.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
    if 0 < at < len(data) - 12:
        data[at + 8 : at + 10] = struct.pack("<H", int(rng.integers(65536)))


def fuzz(folder: Path, *, count: int, seed: int) -> Outcome:
    """Read `count` mutated files through one guard; `folder` should be in memory."""
    found, path = Outcome(), folder / "mutant.dcm"
    good = (Slice, Frames, Projection, Segmentation, Contours)
    pids: set[int] = set()
    began = time.monotonic()
    with Guard(limits=LIMITS) as guard:
        for data in mutants(seeds(folder), count=count, seed=seed):
            path.write_bytes(data)
            at = time.monotonic()
            try:
                answer: object = guard.read(path, with_pixels=True)
            except Exception as error:  # noqa: BLE001  (this is what is counted)
                answer = error
            found.slowest_s = max(found.slowest_s, time.monotonic() - at)
            found.cases += 1
            found.crashes += not isinstance(answer, (*good, Reason))
            found.outcomes[answer.value if isinstance(answer, Reason) else type(answer).__name__] += 1
            if guard.pid is not None:
                pids.add(guard.pid)
            if found.cases % 500 == 0 and guard.pid is not None:
                found.child_mib = max(found.child_mib, peak_mib(guard.pid))
        if guard.pid is not None:
            found.child_mib = max(found.child_mib, peak_mib(guard.pid))
    found.seconds, found.children = time.monotonic() - began, len(pids)
    found.parent_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def peak_mib(pid: int) -> float:
    """Return the peak resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0
