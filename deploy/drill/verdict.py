"""What a disturbed study must have come to: the figures of an undisturbed one, a replay of every round, sound ledgers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.audit import replay
from common.errors import MotetError
from common.study import Study
from deploy.demo import proof
from deploy.demo.children import command
from server.journal import Journal

EXACT: Final = 1e-10
FIGURES: Final = ("patients", "correlation", "ols", "linear")  # all that follows from the Gram; training is noisy by design


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What must not differ between two studies over the same rosters and rows: every digit of it."""

    gram_sha256: str
    told: dict[str, Any]


def figures(run: Path) -> Figures:
    """Read the figures of an ended run."""
    result = json.loads((run / "result.json").read_bytes())
    (gram,) = (one for one in _rounds(run) if one["task"] == "gram" and one["state"] == "opened")
    return Figures(gram_sha256=gram["sum_sha256"], told={name: result[name] for name in FIGURES})


def wrong_with(run: Path, *, steps: int, undisturbed: Figures) -> list[str]:
    """Return what is wrong with an ended run: figures that differ, steps that are not there once, rounds not replayed."""
    if not (run / "result.json").exists():
        return [f"run {run.name} has no result"]
    wrong, here = [], figures(run)
    if here.gram_sha256 != undisturbed.gram_sha256:
        wrong.append("the Gram differs from the undisturbed one")
    wrong += [f"{name} differs from the undisturbed one" for name in FIGURES if here.told[name] != undisturbed.told[name]]
    opened = [one["index"] for one in _rounds(run) if one["task"] == "train" and one["state"] == "opened"]
    if opened != list(range(1, steps + 1)):
        wrong.append("the steps are not there once each, in order")
    try:
        known = replay.replay(run, roster_hash=json.loads((run / "result.json").read_bytes())["roster"])
        if len(list(known)) != len(_rounds(run)):
            wrong.append("the replay does not know every round")
    except MotetError as error:
        wrong.append(f"the replay fails: {error}")
    return [f"run {run.name}: {what}" for what in wrong]


def wrong_with_pooled(run: Path, homes: list[Path], *, study: Study) -> list[str]:
    """Return whether a run's statistics differ from those of the pooled rows."""
    result = json.loads((run / "result.json").read_bytes())
    pooled = proof.pooled(homes, study=study)
    differences = (proof.correlation_difference, proof.regression_difference)
    found = max(difference(result, pooled, study=study) for difference in differences)
    return [f"the statistics differ from the pooled ones by {found:.1e}"] if found > EXACT else []


def wrong_with_ledgers(homes: list[Path], *, roster_hash: str) -> list[str]:
    """Export every hospital's bundle and audit them together; return what is wrong."""
    bundles = [home.with_suffix(".zip") for home in homes]
    try:
        for home, bundle in zip(homes, bundles, strict=True):
            command("motet-hospital", "bundle", "--home", home, bundle)
        command("motet-audit", "verify", *bundles, "--roster-hash", roster_hash)
    except MotetError as error:
        return [str(error)]
    return []


def _rounds(run: Path) -> list[dict[str, Any]]:
    return [event for event in Journal(run / "journal.jsonl").events() if event["type"] == "round"]
