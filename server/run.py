"""The study from set-up to result: statistics, training, evaluation, one secure sum after another."""

import json
import statistics
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import announcement, files, harmonisation, left_out, mechanism, moments, noisy_moments
from common.canonical import decimal_text
from common.crypto import ring
from common.errors import ConfigError, HospitalMissing, NotEstimable
from common.mechanism import GaussianShare, NoisyGram, SampledStep
from common.noisy_moments import NoisyMoments
from common.privacy import GramPrivacy
from common.roster import Roster
from common.study import Study
from server import analyse, csvs, evaluation, report, spent, stopping
from server.analyse import Harmonised
from server.exchange import Carrier, Exchange
from server.infer import correlation, family, regression
from server.infer.private import family as noisy_family
from server.journal import Journal
from server.rounds import Rounds
from server.setup import set_up
from server.train import train
from server.witnesses import NAME, Witnesses

TOLD = Decimal("0.0001")  # an epsilon of the result is rounded up to this
READING = "the statistics are read from their sum"


def begin(*, study: Study, roster: Roster, key: Ed25519PrivateKey, carrier: Carrier, folder: Path, run: str) -> Exchange:
    """Write down that a run begins, or goes on in another life, and what was seen of the hospitals' ledgers before.

    Raises ConfigError, and writes nothing, where the run began over another roster: its set-up and its sums are over that one;
    KeyboardInterrupt where it was stopped.
    """
    journal = Journal(folder / "journal.jsonl")
    before = [event for event in journal.events() if event["type"] == "start"]
    if before and before[0]["roster"] != roster.hash():
        raise ConfigError("The run began over another roster.", action="Begin a new run, which is charged anew.")
    uploads = folder / "rounds"
    uploads.mkdir(mode=0o700, exist_ok=True)
    files.write(folder / "roster.json", roster.bytes())
    seen = Witnesses(folder.parent / NAME, roster=roster, key=key)
    shown = seen.resume(journal.events())
    exchange = Exchange(
        run=run, study=study, roster=roster, key=key, carrier=carrier, journal=journal, folder=uploads, witnesses=seen
    )
    begun: dict[str, Any] = {"run": run, "study": study.hash(), "roster": roster.hash()}
    if before:
        stopping.go_on(journal, **begun)
    else:
        exchange.say("start", **begun, witnessed=shown)
    return exchange


def run_study(
    *, study: Study, roster: Roster, key: Ed25519PrivateKey, carrier: Carrier, folder: Path, run: str
) -> dict[str, Any]:
    """Run `study` to its end and return its result, as JSON can hold it; also written to `folder`.

    Raises HospitalMissing when too few hospitals are left, KeyboardInterrupt when the run was stopped before its last answer;
    what was opened until then stays in the journal.
    """
    started = time.monotonic()
    exchange = begin(study=study, roster=roster, key=key, carrier=carrier, folder=folder, run=run)
    journal = exchange.journal
    rounds = Rounds(exchange=exchange, keys=set_up(exchange))
    harmonised = analyse.harmonise(rounds, study=study)
    statistics_part = {
        **_statistics(rounds, study, harmonised=harmonised),
        "analyses": analyse.analyse(rounds, study=study, harmonised=harmonised),
    }
    trained = train(rounds, study=study, folder=folder)
    scored = evaluation.run(rounds, study, trained)
    checkpoints = rounds.close()
    stopping.past_stopping(journal)
    for name, text in checkpoints.items():
        files.write(folder / f"{name}.checkpoint", text.encode())
    result = {
        "study": {
            "name": study.name,
            "title": study.title,
            "hash": study.hash(),
            "purpose": study.purpose,
            "complete_cases": study.statistics.complete_cases,
        },
        "federation": roster.federation,
        "roster": roster.hash(),
        "run": run,
        "hospitals": list(rounds.members),
        **statistics_part,
        "training": {**_privacy(study, journal), **scored.told},
        **_told(study, journal),
        "seconds": _seconds(journal, total=time.monotonic() - started),
    }
    files.write(folder / "model.safetensors", trained[scored.accepted])
    files.write(folder / "result.json", json.dumps(result, indent=1, sort_keys=True, allow_nan=False).encode())
    report.render(result, out=folder / "report.html")
    csvs.write(result, folder=folder / "tables")
    journal.write({"type": "done", "time": round(time.time(), 3)})
    return result


def _statistics(rounds: Rounds, study: Study, *, harmonised: Harmonised | None) -> dict[str, Any]:
    if study.statistics.privacy is not None:
        noisy = _noisy_gram(rounds, study, study.statistics.privacy)
        rounds.exchange.say("stage", stage=READING)
        return {"private_gram": noisy_family.read(noisy, study=study)}
    columns = study.columns()
    harmonises = study.harmonises(task="gram", index=0)
    blob = harmonisation.pack(b"", coefficients=harmonised.coefficients) if harmonised and harmonises else b""
    announced, words = rounds.secure_sum(
        task="gram", index=0, dimension=left_out.dimension(len(columns)), blob=blob, attempts=1
    )
    total, without = left_out.split(ring.decode(words, bits=announced.mechanism.ring_bits).tolist())
    rounds.exchange.say("stage", stage=READING)
    pooled = moments.from_total(total, study=study)
    wanted = study.statistics
    part: dict[str, Any] = {
        "patients": pooled.n,
        "left_out": without.plain(),
        "correlation": correlation.correlate(pooled, names=wanted.correlation).plain(),
    }
    try:
        fitted = regression.fit(pooled, outcome=wanted.regression.outcome, predictors=wanted.regression.predictors)
        part["ols"] = fitted.plain()
    except NotEstimable as error:
        part["ols"] = {"outcome": wanted.regression.outcome, "diagnosis": error.what}
    return {**part, "linear": family.read(pooled, study=study, without=without)}


def _noisy_gram(rounds: Rounds, study: Study, privacy: GramPrivacy) -> NoisyMoments:
    """Open the Gram with noise; one that a hospital missed is asked afresh, with fresh noise and a charge of its own."""
    announced, words = rounds.secure_sum(
        task="gram",
        index=0,
        dimension=noisy_moments.packed_size(len(study.columns())),
        blob=b"",
        attempts=1 + privacy.rounds_void_allowed,
    )
    if not isinstance(announced.mechanism, NoisyGram):
        raise TypeError("a noisy Gram has a Gaussian mechanism")
    return noisy_moments.from_total(
        ring.decode(words, bits=announced.mechanism.ring_bits).astype(np.float64),
        study=study,
        mechanism=announced.mechanism,
        epsilon=spent.epsilons([announced.mechanism], delta=privacy.delta, step=TOLD)["epsilon"],
    )


def _uploads(study: Study, journal: Journal) -> dict[str, list[mechanism.Mechanism]]:
    sent: dict[str, list[mechanism.Mechanism]] = {}
    for event in journal.rounds().values():
        announced = mechanism.from_entry(event["mechanism"])
        for name in event["uploaded"]:
            sent.setdefault(name, []).append(announcement.charged(study, announced, hospital=name))
    return sent


def _privacy(study: Study, journal: Journal) -> dict[str, Any]:
    """Return what the steps alone cost the hospital that took part in most of them."""
    steps = [[item for item in items if isinstance(item, SampledStep)] for items in _uploads(study, journal).values()]
    privacy = study.privacy
    return {
        **_spent(max(steps, key=len), delta=privacy.delta),
        "noise_multiplier": decimal_text(privacy.noise_multiplier),
        "clip_norm": decimal_text(privacy.clip_norm),
        "sampling_rate": decimal_text(privacy.sampling_rate),
        "colluders": privacy.colluders,
        "local_steps": None if study.training.local is None else study.training.local.local_steps,
    }


def _spent(noisy: Sequence[GaussianShare], *, delta: Decimal) -> dict[str, Any]:
    return {**spent.epsilons(noisy, delta=delta, step=TOLD), "releases": len(noisy)}


def _told(study: Study, journal: Journal) -> dict[str, Any]:
    """Return the rounds, and what they cost: `privacy` is of all noisy releases together, at the hospital of the most."""
    events, delta = list(journal.rounds().values()), study.privacy.delta
    per_hospital, cost = {}, {}
    for name, items in _uploads(study, journal).items():
        noisy = [item for item in items if isinstance(item, GaussianShare)]
        cost[name] = _spent(noisy, delta=delta)
        per_hospital[name] = {
            "epsilon": cost[name]["epsilon"],
            "private_releases": len(noisy),
            "exact_releases": len(items) - len(noisy),
        }
    return {
        "privacy": max(cost.values(), key=lambda one: spent.size(one["epsilon"])),
        "rounds": [
            {key: event[key] for key in ("round", "task", "index", "hospitals", "state", "seconds", "missing")}
            for event in events
        ],
        "hospital_epsilon": per_hospital,
        "exact_releases": [
            {"round": event["round"], "statistic": event["mechanism"]["statistic"], "hospitals": event["uploaded"]}
            for event in events
            if event["mechanism"]["name"] == "none"
        ],
    }


def _seconds(journal: Journal, *, total: float) -> dict[str, float]:
    opened = [event["seconds"] for event in journal.rounds().values() if event["state"] == "opened"]
    if not opened:
        raise HospitalMissing("No round was opened.", action="See the journal.")
    return {"run": round(total, 3), "per_secure_sum": round(statistics.median(opened), 3)}
