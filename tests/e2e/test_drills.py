"""Drills through real processes in network namespaces: what was disturbed ends with the figures of what was not."""

import json
import subprocess
import sys

import pytest

from common.errors import MotetError
from deploy.demo import lidc
from deploy.drill import federation, iproute, verdict
from deploy.drill.namespaces import ROOT
from server.journal import Journal

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]
DONE = ("short cut", "vault killed", "ServerApp killed")


@pytest.fixture(scope="module")
def drilled(tmp_path_factory):
    if reason := iproute.missing():
        pytest.skip(reason)
    try:
        lidc.find()
    except MotetError as error:
        pytest.skip(f"{error}")
    folder = tmp_path_factory.mktemp("d") / "drill"
    only = [word for name in DONE for word in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.drill.drill", "--out", folder, *only],
        cwd=ROOT, capture_output=True, timeout=800, check=False,
    )  # fmt: skip
    assert (folder / "drill.json").exists(), done.stderr.decode()[-3000:]
    return folder, json.loads((folder / "drill.json").read_bytes()), done.returncode


def finished_runs(folder):
    return [path.parent for path in (folder / "coordinator" / "runs").glob("*/result.json")]


def test_each_failure_costs_a_round_at_most_and_the_next_good_one_is_soon(drilled):
    _, found, code = drilled
    assert [one["name"] for one in found["drills"]] == list(DONE)
    assert [one["wrong"] for one in found["drills"]] == [""] * len(DONE)
    assert found["studies"] == []
    assert code == 0
    assert all(one["rounds_lost"] <= 1 and 0 < one["good_after_s"] <= one["within_s"] for one in found["drills"])


def test_a_disturbed_study_has_the_figures_of_an_undisturbed_one(drilled):
    folder, _, _ = drilled
    runs = sorted(finished_runs(folder), key=lambda run: (run / "result.json").stat().st_mtime)
    undisturbed, *disturbed = runs
    assert disturbed
    wanted = verdict.figures(undisturbed)
    assert wanted.told["patients"] > 0
    for run in disturbed:
        events = list(Journal(run / "journal.jsonl").events())
        assert any(event["type"] in {"resumed", "link"} for event in events)
        assert verdict.figures(run) == wanted  # the Gram's bits, and every digit of the statistics
        assert verdict.wrong_with(run, steps=federation.STEPS, undisturbed=wanted) == []


def test_a_figure_that_differs_is_found(drilled, tmp_path):
    folder, _, _ = drilled
    run = next(iter(finished_runs(folder)))
    wanted = verdict.figures(run)
    for path in run.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "rounds").symlink_to(run / "rounds")
    result = json.loads((run / "result.json").read_bytes())
    result["correlation"]["r"][0][1] += 1e-15
    (tmp_path / "result.json").write_text(json.dumps(result))
    wrong = verdict.wrong_with(tmp_path, steps=federation.STEPS, undisturbed=wanted)
    assert any("correlation differs" in what for what in wrong)
    (tmp_path / "result.json").unlink()
    assert verdict.wrong_with(tmp_path, steps=federation.STEPS, undisturbed=wanted) == [f"run {tmp_path.name} has no result"]
