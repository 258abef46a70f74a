"""An independent verifier in Go, on golang.org/x/mod/sumdb, agrees with ours on good and on damaged bundles."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from common.audit import bundle, verify
from common.errors import RecordDamaged
from common.ledger import note, post_quantum
from tests import ledgers
from tests.ledgers import GRAM

SOURCE = Path(__file__).parents[2] / "deploy" / "verifier-go"
PACKAGES = Path("/usr/share/gocode/src/golang.org/x/mod")  # Debian's golang-golang-x-mod-dev


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("go") is None or not PACKAGES.is_dir():
        pytest.skip("Go or golang-golang-x-mod-dev is not installed: apt-get install golang-go golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    place = folder / "path" / "src" / "verifier"
    place.mkdir(parents=True)
    shutil.copy(SOURCE / "main.go", place)
    environment = {
        **os.environ, "GO111MODULE": "off", "GOPATH": f"{folder / 'path'}:/usr/share/gocode", "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "", "CGO_ENABLED": "0",
    }  # fmt: skip
    subprocess.run(["go", "build", "-o", folder / "verifier", "."], cwd=place, env=environment, check=True, timeout=200)
    return folder / "verifier"


def rezipped(source, target, change):
    """The same bundle with one file changed, under right zip checksums."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for info in before.infolist():
            after.writestr(zipfile.ZipInfo(info.filename, bundle.STAMP), change(info.filename, before.read(info)))
    return target


def lines_changed(change):
    def inside(name, data):
        return b"".join(change(data.splitlines(keepends=True))) if name == "entries.jsonl" else data

    return inside


DAMAGE = {
    "none": lambda _name, data: data,
    "an entry left out": lines_changed(lambda lines: lines[:-1]),
    "an entry twice": lines_changed(lambda lines: [*lines, lines[-1]]),
    "two entries swapped": lines_changed(lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
    "a letter changed": lambda name, data: data.replace(b'"ts":1', b'"ts":2', 1) if name == "entries.jsonl" else data,
    "another size": lambda name, data: data.replace(b"\n6\n", b"\n5\n", 1) if name == "checkpoint" else data,
    "a signature changed": lambda name, data: data[:-9] + b"AAAA" + data[-5:] if name == "checkpoint" else data,
}


def test_the_independent_verifier_agrees_on_good_and_damaged_bundles(program, tmp_path):
    with ledgers.create(tmp_path / "ledger.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=1, mechanism=GRAM, start=1)
        ledgers.export(tmp_path / "good.zip", ledger)
        vkey, signed = ledger.verify_key, ledger.checkpoint()
    for name, change in DAMAGE.items():
        path = rezipped(tmp_path / "good.zip", tmp_path / f"{name}.zip", change)
        done = subprocess.run([program, vkey, path], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == (0 if name == "none" else 1), (name, done.stderr)
        if name != "none":
            with pytest.raises(RecordDamaged):
                verify.verify(bundle.read(path), roster_hash=None)
    assert verify.verify(bundle.read(tmp_path / "good.zip"), roster_hash=None).root
    second = post_quantum.line(note.parse_checkpoint(note.split(signed)[0]), key=ledgers.LEDGER_KEY, now=7).encode()
    both = rezipped(tmp_path / "good.zip", tmp_path / "both.zip", lambda name, data: data + second * (name == "checkpoint"))
    done = subprocess.run([program, vkey, both], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr  # the ML-DSA-44 line is skipped
    stranger = ledgers.note.key_of(ledgers.ORIGIN, key=ledgers.key(5)).vkey
    assert subprocess.run([program, stranger, tmp_path / "good.zip"], capture_output=True, check=False).returncode == 1
