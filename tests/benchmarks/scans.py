"""Scans: slices per second beside pydicom, parameters per second, IBSI values, 100,000 mutated files; out/bench/scans.json.

python -m tests.benchmarks.scans [--fuzz CASES]
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from client import pipeline
from client.imaging.ahead import Ahead
from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.imaging.volume import assemble
from client.inside import Scan
from tests import fuzzing
from tests.phantoms import Ellipsoid, volume, write_series

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "bench" / "scans.json"
SLICES, SIDE, REPEATS, LESIONS = 120, 512, 5, 5
CASES, PART, SEED = 100_000, 10_000, 20_260_101
FILES_OF_A_TEST = {"test_ibsi_ct_phantom_texture": 94, "test_ibsi_ct_phantom_has_shape_and_intensity": 21}  # values each


def reading(folder: Path) -> dict[str, Any]:
    """Folder to Volume with the guard, beside pydicom's own reading and rescale of the same files; best of several, in turn."""
    image = volume(
        Ellipsoid(semi_axes_mm=(30, 20, 15), angle_deg=20),
        shape=(SLICES, SIDE, SIDE),
        spacing_mm=(1.5, 0.7, 0.7),
        body_radius_mm=150,
        noise_hu=3,
    )
    paths = write_series(folder, patient_id="P", voxels_hu=image.voxels, spacing_mm=image.spacing_mm)
    ours, bare, peak_mib = [], [], 0.0
    worked, worked_bare = 0.0, 0.0  # processor time, which a busy machine stretches less
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of making the series
    with Guard() as one, Guard() as other, Ahead(one, other) as guard:
        for child in (one, other):  # they are there, as they are for all files but the first
            child.read(paths[0], with_pixels=True)
        for _ in range(REPEATS):
            began, busy = time.perf_counter(), _worked_s(one.pid, other.pid)
            (scan,) = (
                one
                for one in read_scans(folder, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
                if isinstance(one, Scan)
            )
            whole = assemble(scan)
            ours.append(time.perf_counter() - began)
            worked += _worked_s(one.pid, other.pid) - busy
            peak_mib = max(peak_mib, fuzzing.peak_mib(os.getpid()) if not bare else 0.0)
            np.testing.assert_array_equal(whole.voxels, image.voxels)
            del scan, whole
            began, busy = time.perf_counter(), time.process_time()
            planes = [pydicom.dcmread(path) for path in paths]
            _ = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in planes])
            bare.append(time.perf_counter() - began)
            worked_bare += time.process_time() - busy
            del planes
        children_mib = sum(fuzzing.peak_mib(child.pid) for child in (one, other) if child.pid is not None)
    return {
        "memory_peak_mib": math.ceil(peak_mib),
        "memory_peak_children_mib": math.ceil(children_mib),
        "slices": SLICES,
        "side_voxels": SIDE,
        "slices_per_second": round(SLICES / min(ours), 1),
        "slices_per_second_pydicom": round(SLICES / min(bare), 1),
        "ratio_vs_pydicom": round(min(ours) / min(bare), 3),
        "cpu_ms_per_slice": round(1000 * worked / REPEATS / SLICES, 2),
        "cpu_ms_per_slice_pydicom": round(1000 * worked_bare / REPEATS / SLICES, 2),
        "ratio_vs_pydicom_median": round(float(np.median(ours) / np.median(bare)), 3),
    }


def _worked_s(*children: int | None) -> float:
    """Return the processor time of this process and of running children, s (proc(5): utime and stime)."""
    tick = os.sysconf("SC_CLK_TCK")
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in children if pid is not None]
    return time.process_time() + sum(int(stat[11]) + int(stat[12]) for stat in stats) / tick


def measuring() -> dict[str, Any]:
    """All parameters of a lesion of 20 mm at 1 mm."""
    lesion = volume(Ellipsoid(semi_axes_mm=(10, 8, 6), angle_deg=30), shape=(96, 96, 96), noise_hu=20)
    times, values = [], 0
    for _ in range(LESIONS):
        began = time.perf_counter()
        values = sum(len(family.measure(lesion)) for family in pipeline.FAMILIES if not family.__name__.endswith("acquisition"))
        times.append(time.perf_counter() - began)
    return {
        "parameters": values,
        "lesion_voxels": int(lesion.region.sum()) if lesion.region is not None else 0,
        "parameters_per_lesion_per_second": round(values / min(times), 1),
        "lesions_per_second": round(1 / min(times), 2),
    }


def conformance() -> dict[str, Any]:
    """Values of IBSI's phantoms that the tests compare; a test of a configuration counts as many as it compares."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", "ibsi"]
    files = ["tests/unit/test_texture.py", "tests/unit/test_reference_parameters.py", "tests/unit/test_measure.py"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    matched = total = 0
    for state, name in re.findall(r"^(PASSED|FAILED) \S+::(\w+)", done.stdout, re.MULTILINE):
        weight = FILES_OF_A_TEST.get(name, 1)
        total += weight
        matched += weight * (state == "PASSED")
    return {
        "ibsi_matched": matched,
        "ibsi_total": total,
        "ibsi_tests_skipped": len(re.findall(r"^SKIPPED", done.stdout, re.MULTILINE)),
    }


def hostile(folder: Path, *, cases: int) -> dict[str, Any]:
    """Mutated files through the guard, ten thousand at a time, each time with a seed of its own."""
    parts = []
    for start in range(0, cases, PART):
        parts.append(fuzzing.fuzz(folder, count=min(PART, cases - start), seed=SEED + start))
        print(f"{start + parts[-1].cases} files, {sum(one.crashes for one in parts)} crashes", file=sys.stderr, flush=True)
    outcomes = sum((one.outcomes for one in parts), Counter())
    count, seconds = sum(one.cases for one in parts), math.fsum(one.seconds for one in parts)
    return {
        "fuzz_cases": count,
        "fuzz_crashes": sum(one.crashes for one in parts),
        "fuzz_cases_per_second": round(count / seconds, 1),
        "fuzz_slowest_s": round(max(one.slowest_s for one in parts), 2),
        "fuzz_children": sum(one.children for one in parts),
        "fuzz_outcomes": dict(outcomes.most_common()),
        "fuzz_child_peak_mib": math.ceil(max(one.child_mib for one in parts)),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fuzz", type=int, default=CASES, help="how many mutated files")
    parser.add_argument("--only", choices=["fuzz", "reading", "rest"], help="one part, the others as they were")
    asked = parser.parse_args()
    known = json.loads(OUT.read_text()) if asked.only and OUT.exists() else {}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        if asked.only in {None, "reading"}:
            (Path(made) / "series").mkdir()
            known |= reading(Path(made) / "series")
        if asked.only in {None, "rest"}:
            known |= measuring() | conformance()
        if asked.only in {None, "fuzz"}:
            (Path(made) / "fuzz").mkdir()
            known |= hostile(Path(made) / "fuzz", cases=asked.fuzz)
    known["processors"] = os.cpu_count()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(known, indent=2))


if __name__ == "__main__":
    main()
