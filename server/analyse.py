"""The declared analyses of a study, one after another, each by as many secure sums as it asks for and its study allows."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from common import analyses, query
from common.crypto import ring
from common.errors import DataError, HospitalMissing, NotEstimable, ProtocolError
from common.harmonisation import Harmonisation
from common.study import Study
from server.infer import declared
from server.rounds import Rounds

REFUSED = "refused"
MISSING = "hospital missing"
CAP = "more sums than the study allows"


def analyse(rounds: Rounds, *, study: Study) -> list[dict[str, Any]]:
    """Return the results of study.statistics.analyses, in their order, as JSON can hold them.

    Each has kind, statistic (its name in ledgers), declared, sums (secure sums opened for it), hospitals, mechanism "none" and
    epsilon "infinite", and either `result`, or `diagnosis` and `term`: not estimable, refused by a hospital's policy, a
    hospital that was away. An analysis without an answer never ends the study, and no number is put in its place.
    """
    return [_one(rounds, study, position) for position in range(len(study.statistics.analyses))]


def _one(rounds: Rounds, study: Study, position: int) -> dict[str, Any]:
    one = study.statistics.analyses[position]
    opened: dict[bytes, list[int]] = {}
    told = {
        "kind": one.kind,
        "statistic": analyses.statistic(one, position=position),
        "declared": one.model_dump(mode="json"),
        "mechanism": "none",
        "epsilon": "infinite",
    }
    try:
        found: dict[str, Any] = {"result": _plain(_drive(rounds, study, position, opened))}
    except NotEstimable as error:
        found = {"diagnosis": error.diagnosis, "term": error.term}
    except HospitalMissing:
        found = _why(rounds)
    except (DataError, ProtocolError) as error:
        found = {"diagnosis": error.what, "term": one.kind}
    hospitals = rounds.exchange.journal.rounds().get(rounds.number, {}).get("hospitals", []) if opened else []
    return {**told, "sums": len(opened), "hospitals": hospitals, **found}


def _drive(rounds: Rounds, study: Study, position: int, opened: dict[bytes, list[int]]) -> Any:  # noqa: ANN401
    """Run an analysis to its result; a query that it repeats is answered from what was opened before."""
    one = study.statistics.analyses[position]
    running, sums = declared.start(study, position=position), None
    while True:
        try:
            asked = next(running) if sums is None else running.send(sums)
        except StopIteration as end:
            return end.value
        blob = asked.bytes()
        if blob not in opened:
            if len(opened) >= analyses.queries_most(one):
                raise NotEstimable(CAP, term=one.kind, action="Propose a study with a larger queries_max.")
            announced, words = rounds.secure_sum(
                task="query",
                index=analyses.index(position, number=len(opened) + 1),
                dimension=query.dimension(asked),
                blob=blob,
                attempts=1,
            )
            opened[blob] = ring.decode(words, bits=announced.mechanism.ring_bits).tolist()
        sums = opened[blob]


def _why(rounds: Rounds) -> dict[str, str]:
    missing = rounds.exchange.journal.rounds().get(rounds.number, {}).get("missing", {})
    refused = sorted(name for name, code in missing.items() if name and code.startswith("E-REFUSED"))
    if refused:
        return {"diagnosis": REFUSED, "term": ", ".join(refused)}
    return {"diagnosis": MISSING, "term": ", ".join(sorted(filter(None, missing))) or "too few are left"}


def _plain(result: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a result as JSON can hold it: an infinite ratio has no number there."""
    made: dict[str, Any] = asdict(result) if isinstance(result, Harmonisation) else result.plain()
    return {key: _finite(value) for key, value in made.items()}


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
