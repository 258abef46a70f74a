"""Claims about the quarantine: coded, counted, kept over restarts, retried after an upgrade, and without a patient's value."""

import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from typer.testing import CliRunner

from client import config, pipeline, quarantine, shelf
from client.cli import app
from client.imaging.found import Reason, Slice
from client.imaging.guard import Guard
from client.imaging.lesion import NoLesion
from client.imaging.scan import read_scans
from client.imaging.volume import Gate
from client.inside import Scan, SetAside
from client.quarantine import Quarantine, Reading
from client.reasons import MEANINGS
from common.errors import ConfigError, InternalError, NoScans, RecordUnwritable
from tests import federation
from tests.phantoms import Ellipsoid, volume, write_series

IMAGE = volume(Ellipsoid(semi_axes_mm=(8, 5, 3)), shape=(10, 32, 40), body_radius_mm=14)


def pseudonym(kind: str, raw: str) -> str:
    return hmac.new(b"a key", f"{kind}\0{raw}".encode(), hashlib.sha256).hexdigest()[:32]


class Counting:
    """A guard that says how many files it opened."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.opened = guard, []

    def read(self, path: Path, *, with_pixels: bool) -> Any:
        self.opened.append(path.name)
        return self.guard.read(path, with_pixels=with_pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good series and three bad files, one in a folder named after a patient."""
    scans = tmp_path / "scans"
    paths = write_series(scans / "a", patient_id="P-1", voxels_hu=IMAGE.voxels, spacing_mm=(1, 1, 1), region=IMAGE.region)
    named = scans / "Planted^Eleanor"
    named.mkdir()
    (named / "Planted Eleanor 19510204.dcm").write_bytes(paths[0].read_bytes()[:-200])
    (scans / "note.txt").write_text("no scan")
    ds = pydicom.dcmread(paths[0])
    del ds.RescaleSlope
    ds.save_as(scans / "raw.dcm")
    return scans


def read(folder: Path, store: Quarantine, guard: Guard, **options: Any) -> tuple[Counting, Reading, list[Any]]:
    counting = Counting(guard)
    reading = store.begin(root=folder, **({"recipe": "r", "code": "1", "pseudonym": pseudonym} | options))
    found = []
    for item in read_scans(folder, pseudonym=pseudonym, reader=reading.through(counting), modality="CT"):
        found.append(item)
        if isinstance(item, SetAside):
            reading.note(item)
    reading.end(usable=sum(isinstance(item, Scan) for item in found))
    return counting, reading, found


@pytest.fixture
def reopened(tmp_path: Path) -> Callable[..., Quarantine]:
    return lambda at=100: Quarantine(tmp_path / "q.sqlite", clock=lambda: at)


def test_every_file_that_is_set_aside_is_listed_with_its_code(
    folder: Path, guard: Guard, reopened: Callable[..., Quarantine]
) -> None:
    store = reopened()
    read(folder, store, guard)
    store.close()
    found, last = quarantine.look(store.path)
    assert sorted((one.reason, one.kind, one.since, one.readings) for one in found) == [
        ("NOT_DICOM", "file", 100, 1),
        ("NO_RESCALE", "file", 100, 1),
        ("TRUNCATED", "file", 100, 1),
    ]
    assert last == quarantine.Last(ended=100, usable=1)
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_list_that_is_damaged_or_not_made_yet_is_empty_and_one_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for data in (b"", b"no database at all" * 100):
        (tmp_path / "q.sqlite").write_bytes(data)
        assert quarantine.look(tmp_path / "q.sqlite") == ([], None)
        assert quarantine.paths(tmp_path / "q.sqlite") == []
    for read in (quarantine.look, quarantine.paths):
        with pytest.raises(ConfigError, match="cannot be read"):
            read(tmp_path)


def test_a_full_disk_is_told_as_one(folder: Path, guard: Guard, reopened: Callable[..., Quarantine]) -> None:
    store = reopened()
    reading = store.begin(root=folder, recipe="r", code="1", pseudonym=pseudonym)
    store.store.execute("PRAGMA max_page_count = 1")  # SQLite then says what it says of a full disk
    with pytest.raises(RecordUnwritable, match=r"cannot be written \(database or disk is full\)"):
        reading.note(SetAside(name="a" * 100_000, reason="FAILED"))
    store.close()


def test_a_reading_without_a_reader_lists_nothing_as_bad(folder: Path, reopened: Callable[..., Quarantine]) -> None:
    store = reopened()
    reading = store.begin(root=folder, recipe="r", code="1", pseudonym=pseudonym)
    with pytest.raises(InternalError):
        reading.read(folder / "note.txt", with_pixels=True)
    assert quarantine.look(store.path)[0] == []


def test_a_bad_file_is_not_opened_again_after_a_restart(
    folder: Path, guard: Guard, reopened: Callable[..., Quarantine]
) -> None:
    read(folder, reopened(100), guard)
    again, _, _ = read(folder, reopened(200), guard)
    assert "raw.dcm" not in again.opened
    assert "note.txt" not in again.opened
    assert len(again.opened) == 12  # ten slices, the segmentation, and once more for its planes
    found, _ = quarantine.look(reopened().path)
    assert {(one.since, one.readings) for one in found} == {(100, 2)}


def test_a_bad_file_is_tried_again_after_an_upgrade_or_when_it_changes(
    folder: Path, guard: Guard, reopened: Callable[..., Quarantine]
) -> None:
    read(folder, reopened(), guard)
    after, _, _ = read(folder, reopened(), guard, code="2")
    assert {"raw.dcm", "note.txt", "Planted Eleanor 19510204.dcm"} <= set(after.opened)
    whole = next(folder.glob("a/*0001.dcm")).read_bytes()
    before = (folder / "raw.dcm").stat()
    (folder / "raw.dcm").write_bytes((whole + bytes(before.st_size))[: before.st_size])
    os.utime(folder / "raw.dcm", ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time: still another file
    mended, _, _ = read(folder, reopened(), guard, code="2")
    assert "raw.dcm" in mended.opened
    assert "note.txt" not in mended.opened
    (folder / "note.txt").unlink()
    read(folder, reopened(), guard, code="2")
    assert "NOT_DICOM" not in {one.reason for one in quarantine.look(reopened().path)[0]}  # gone, so forgotten


def test_what_may_be_chance_is_tried_three_times(folder: Path, guard: Guard, reopened: Callable[..., Quarantine]) -> None:
    class Unlucky(Counting):
        def read(self, path: Path, *, with_pixels: bool) -> Any:
            answer = super().read(path, with_pixels=with_pixels)
            return Reason.TIMED_OUT if path.name == "raw.dcm" else answer

    opened = []
    for _ in range(5):
        unlucky = Unlucky(guard)
        reading = reopened().begin(root=folder, recipe="r", code="1", pseudonym=pseudonym)
        for item in read_scans(folder, pseudonym=pseudonym, reader=reading.through(unlucky), modality="CT"):
            if isinstance(item, SetAside):
                reading.note(item)
        reading.end(usable=1)
        opened.append("raw.dcm" in unlucky.opened)
    assert opened == [True, True, True, False, False]


def test_a_series_is_looked_at_again_in_each_reading_and_each_recipe_has_its_own(
    folder: Path, guard: Guard, reopened: Callable[..., Quarantine]
) -> None:
    store = reopened()
    for recipe in ("one", "two", "one"):
        reading = store.begin(root=folder, recipe=recipe, code="1", pseudonym=pseudonym)
        (scan,) = (
            x
            for x in read_scans(folder, pseudonym=pseudonym, reader=reading.through(guard), modality="CT")
            if isinstance(x, Scan)
        )
        if recipe == "two":
            reading.note(SetAside(name=scan.series, reason="REGION_TOO_SMALL"))
        reading.end(usable=1)
    found = [one for one in quarantine.look(store.path)[0] if one.kind == "series"]
    assert [(one.reason, one.readings) for one in found] == [("REGION_TOO_SMALL", 1)]
    (row,) = (row for row in quarantine.paths(store.path) if row[1] == "REGION_TOO_SMALL")
    assert row[2].startswith("a/")  # the series can be found, by who may read the file


def test_a_reading_that_was_killed_keeps_what_it_found(folder: Path, guard: Guard, reopened: Callable[..., Quarantine]) -> None:
    store = reopened()
    reading = store.begin(root=folder, recipe="r", code="1", pseudonym=pseudonym)
    reading.through(guard).read(folder / "note.txt", with_pixels=False)
    store.close()  # without an end
    found, last = quarantine.look(store.path)
    assert [one.reason for one in found] == ["NOT_DICOM"]
    assert last is None


@pytest.mark.parametrize("spoiled", [b"not a database" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_list_is_moved_aside_and_begun_anew(tmp_path: Path, spoiled: bytes) -> None:
    path = tmp_path / "q.sqlite"
    path.write_bytes(spoiled)
    assert quarantine.look(path) == ([], None)
    Quarantine(path, clock=lambda: 1).close()
    assert (tmp_path / "q.sqlite.damaged").read_bytes() == spoiled
    assert quarantine.look(path) == ([], None)


def test_every_code_has_a_sentence() -> None:
    assert {*Reason, *Gate, *NoLesion} <= set(MEANINGS)


@pytest.fixture
def home(tmp_path: Path, folder: Path) -> config.Home:
    policy = {
        "epsilon_cap": 8,
        "delta_cap": 1,
        "hospitals_min": 3,
        "colluders_min": 0,
        "patients_min": 1,
        "exact_releases_max": 0,
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in ({**policy, "delta_cap": "1e-6"}).items()]
    (tmp_path / "c.csv").write_text("patient_id\nP-1\n")
    done = CliRunner().invoke(
        app,
        [
            "init",
            f"--home={tmp_path / 'h'}",
            "--name=hosp-a",
            f"--scans={folder}",
            f"--clinical={tmp_path / 'c.csv'}",
            *options,
        ],
    )
    assert done.exit_code == 0, done.output
    return config.Home(tmp_path / "h")


def test_the_command_names_no_patient_and_no_path(home: config.Home, folder: Path, guard: Guard, tmp_path: Path) -> None:
    empty = CliRunner().invoke(app, ["scans", f"--home={home.folder}"])
    assert empty.exit_code == 0
    assert "Nothing is set aside" in empty.output
    read(folder, Quarantine(home.quarantine, clock=lambda: 1_700_000_000), guard)
    words = CliRunner().invoke(app, ["scans", f"--home={home.folder}"], env={"COLUMNS": "200"})
    typed = CliRunner().invoke(app, ["scans", f"--home={home.folder}", "--json"])
    for shown in (words.output, typed.output):
        assert not [word for word in ("Planted", "Eleanor", "19510204", "P-1", ".dcm", "note", "raw") if word in shown]
        assert "NO_RESCALE" in shown
    told = json.loads(typed.output)
    assert told["counts"] == {"NOT_DICOM": 1, "NO_RESCALE": 1, "TRUNCATED": 1}
    assert told["last_reading"] == {"ended": "2023-11-14T22:13:20Z", "usable_series": 1}
    assert len({one["id"] for one in told["set_aside"]}) == 3
    private = tmp_path / "paths.tsv"
    assert CliRunner().invoke(app, ["scans", f"--home={home.folder}", f"--paths-to={private}"]).exit_code == 0
    assert "Planted Eleanor 19510204.dcm" in private.read_text()
    assert private.stat().st_mode & 0o777 == 0o600


def test_one_series_that_breaks_a_step_does_not_stop_the_run(
    folder: Path, reopened: Callable[..., Quarantine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A fault in a real step, at the first series that comes to it: no file is known that no check foresees."""
    write_series(folder / "b", patient_id="P-2", voxels_hu=IMAGE.voxels, spacing_mm=(1, 1, 1), region=IMAGE.region)
    names = [v.name for v in federation.study().variables if v.source == "clinical"]
    rows = [["patient_id", *names], *([patient, *"1" * len(names)] for patient in ("P-1", "P-2"))]
    (tmp_path / "clinical.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    step, reached = pipeline.locate, 0

    def breaks(prepared: Any, **how: Any) -> Any:
        nonlocal reached
        reached += 1
        return 1 / len("") if reached == 1 else step(prepared, **how)

    monkeypatch.setattr(pipeline, "locate", breaks)
    store = reopened()
    cohort = pipeline.read_cohort(
        scans=folder,
        clinical=tmp_path / "clinical.csv",
        study=federation.study(),
        pseudonym=pseudonym,
        progress=lambda *_: None,
        reading=store.begin(root=folder, recipe="r", code="1", pseudonym=pseudonym),
    )
    assert (reached, len(cohort.patients)) == (2, 1)
    found, last = quarantine.look(store.path)
    assert sorted(one.reason for one in found) == ["FAILED", "NOT_DICOM", "NO_RESCALE", "TRUNCATED"]
    assert last is not None
    assert last.usable == 1
    assert "internal-error" in caplog.text


def test_a_folder_without_one_usable_series_says_why(
    folder: Path, guard: Guard, reopened: Callable[..., Quarantine], tmp_path: Path
) -> None:
    shutil.rmtree(folder / "a")
    store = reopened()
    names = ",".join(v.name for v in federation.study().variables if v.source == "clinical")
    (tmp_path / "clinical.csv").write_text(f"patient_id,{names}\nP-1{',1' * len(names.split(','))}\n")
    reading = store.begin(root=folder, recipe="r", code="1", pseudonym=pseudonym)
    with pytest.raises(NoScans):
        pipeline.read_cohort(
            scans=folder,
            clinical=tmp_path / "clinical.csv",
            study=federation.study(),
            pseudonym=pseudonym,
            progress=lambda *_: None,
            reading=reading,
        )
    found, last = quarantine.look(store.path)
    assert {one.reason for one in found} == {"NOT_DICOM", "NO_RESCALE", "TRUNCATED"}
    assert last is not None
    assert last.usable == 0


def test_a_good_file_is_never_skipped(folder: Path, guard: Guard, reopened: Callable[..., Quarantine]) -> None:
    for _ in range(2):
        counting, _, found = read(folder, reopened(), guard)
    assert any(isinstance(item, Scan) for item in found)
    assert isinstance(guard.read(next(folder.glob("a/*0001.dcm")), with_pixels=False), Slice)
    assert sum(name.startswith("P-1") for name in counting.opened) == 12


def test_the_vaults_reading_is_written_down(home: config.Home, folder: Path) -> None:
    names = ",".join(v.name for v in federation.study().variables if v.source == "clinical")
    site = config.read_site(home)
    site.clinical.write_text(f"patient_id,{names}\nP-1{',1' * len(names.split(','))}\n")
    shelf.cohort(home, site, study=federation.study(), pseudonym=pseudonym, progress=lambda *_: None)
    found, last = quarantine.look(home.quarantine)
    assert {one.reason for one in found} >= {"NOT_DICOM", "NO_RESCALE", "TRUNCATED"}
    assert last is not None
