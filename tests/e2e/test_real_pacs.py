"""Debian's Orthanc and dcmqrscp beside `motet-hospital receive` and `pull`: every way in brings the same scan."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.imaging.volume import assemble
from client.inside import Scan
from deploy.pacs import run
from tests.phantoms import Ellipsoid, volume, write_series

pytestmark = [pytest.mark.e2e, pytest.mark.long]
SLICES = 20


def test_every_way_in_brings_the_same_scan(tmp_path: Path) -> None:
    if reason := run.missing():
        pytest.skip(reason)
    image = volume(Ellipsoid(semi_axes_mm=(9, 6, 4), angle_deg=30), shape=(SLICES, 64, 64), body_radius_mm=28, noise_hu=3)
    series = tmp_path / "series"
    write_series(
        series,
        patient_id="P-1",
        voxels_hu=image.voxels,
        spacing_mm=(1, 1, 1),
        region=image.region,
        planted={"StudyDate": "20260105"},
    )
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-m", "tests.pacs_round", str(series), str(tmp_path / "in")]
    done = run.run(tmp_path / "pacs", command, timeout_s=220)
    assert done.returncode == 0, done.stderr[-2000:] + (tmp_path / "pacs" / "pacs.log").read_text()[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    everything = {"STORED": SLICES + 1, "SERIES": 2}
    for pacs in ("orthanc", "qr"):
        assert told[f"{pacs} sent"] == [0]
        for way in ("get", "move"):
            assert told[f"{pacs} {way}"] == {"code": 0, "counts": everything, "error": ""}, (pacs, way)
        assert told[f"{pacs} dates"]["counts"] == {"AGAIN": SLICES + 1, "SERIES": 2}
    assert told["orthanc web"] == {"code": 0, "counts": everything, "error": ""}
    assert told["orthanc web stranger"]["code"] == 37
    assert told["receive"] == {"http": 200, "stored": SLICES + 1, "code": 0}
    for inbox in ("orthanc-get", "orthanc-move", "orthanc-web", "qr-get", "qr-move", "pushed"):
        with Guard() as guard:
            found = list(
                read_scans(tmp_path / "in" / inbox / "scans", pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
            )
        (scan,) = found
        assert isinstance(scan, Scan)
        same = assemble(scan)
        np.testing.assert_array_equal(same.voxels, image.voxels)
        np.testing.assert_array_equal(same.region, image.region)
