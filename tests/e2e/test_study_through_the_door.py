"""A whole study with nginx as the only way to the coordinator: the demo's, audited, its bytes in the door's log."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import MotetError
from deploy.demo import lidc
from deploy.demo.few import few
from server import door

ROOT = Path(__file__).resolve().parents[2]
HOSPITALS = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
PATIENTS, STEPS = 24, 2

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]  # machines are shared


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    if shutil.which("nginx", path=door.PROGRAM_PATH) is None:
        pytest.skip("nginx is not installed")
    if not any((place / door.STREAM).exists() for place in door.MODULES):
        pytest.skip("nginx has no stream module: libnginx-mod-stream")
    try:
        lidc.find()
    except MotetError as error:
        pytest.skip(f"{error}")
    folder = tmp_path_factory.mktemp("d")
    study = few((ROOT / "deploy/demo/study.toml").read_text()).replace("steps = 8", f"steps = {STEPS}")
    (folder / "study.toml").write_text(study)
    out = folder / "demo"
    words = ("--out", out, "--study", folder / "study.toml", "--patients", str(PATIENTS), "--door")
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo.demo", *words], cwd=ROOT, capture_output=True, timeout=600, check=False
    )
    logs = "".join(path.read_text()[-2000:] for path in (out / "logs").glob("*.log")) if done.returncode else ""
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode() + logs
    return out


def lines(out, name):
    return [json.loads(line) for line in (out / "coordinator" / "door" / "logs" / name).read_text().splitlines()]


def test_a_whole_study_ends_through_the_door_and_its_audit_verifies(finished):
    result = json.loads((finished / "result.json").read_bytes())
    assert result["hospitals"] == list(HOSPITALS)
    assert result["training"]["steps"] == STEPS
    assert all(event["state"] == "opened" and len(event["hospitals"]) == len(HOSPITALS) for event in result["rounds"])
    assert result["ols"]["max_rel_diff_vs_statsmodels"] <= 1e-10
    assert result["audit"]["verified"] is True


def test_relays_knew_no_other_address_than_the_doors(finished):
    settings = json.loads((finished / "coordinator" / "coordinator.json").read_bytes())
    assert settings["address"] not in {settings["superlink"], settings["lane"]}
    for name in HOSPITALS:
        said = (finished / "logs" / f"{name}-relay.log").read_text()
        assert settings["superlink"] not in said
        assert settings["lane"] not in said


def test_every_hospitals_uploads_went_through_the_door(finished):
    closed = [line for line in lines(finished, "lane.log") if line["event"] == "lane-closed"]
    sent = [
        sum(path.stat().st_size for path in (finished / "coordinator" / "runs").glob(f"*/rounds/*/{name}.envelope"))
        for name in HOSPITALS
    ]
    assert sum(line["received"] for line in closed) >= sum(sent) > 0
    assert sum(line["received"] > min(sent) for line in closed) >= len(HOSPITALS)  # a link of each carried as much


def test_the_door_refused_nothing_that_a_study_needs(finished):
    refused = {(line["path"], line["reason"]) for line in lines(finished, "refused.log")}
    assert {reason for _, reason in refused} <= {
        "superlink-away",
        "superlink-slow",
        "superlink-said-no",
        "client-left",
    }  # while it starts; after the end of the run; a SuperNode that was ended, or that gave up on a machine at its limit
