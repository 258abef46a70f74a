"""The declared analyses of a study, one after another, each by as many secure sums as it asks for and its study allows."""

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from common import analyses, harmonisation, left_out, logs, query
from common.crypto import ring
from common.errors import DataError, HospitalMissing, NotEstimable, ProtocolError
from common.harmonisation import Harmonisation
from common.left_out import LeftOut
from common.query import Analysis, Query, Sums
from common.study import Study
from server.infer import adjust, declared
from server.rounds import Rounds

REFUSED = "refused"
MISSING = "hospital missing"
CAP = "more sums than the study allows"
NO_DATA = "the opened sums fit no data"

log = logging.getLogger("motet.coordinator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An opened sum, and how many patients it leaves out."""

    sums: Sums
    left_out: LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmonised:
    """What the stage before all other sums left: its result as `analyse` lists it, and the coefficients for hospitals."""

    told: dict[str, Any]
    coefficients: bytes


def harmonise(rounds: Rounds, *, study: Study) -> Harmonised | None:
    """Open the sums of the ComBat that the study applies; None where it applies none.

    Raises NotEstimable, or HospitalMissing when it has no answer: nothing else of the study's statistics can be asked then.
    """
    position = study.harmonised
    if position is None:
        return None
    told, made = _one(rounds, study, position, coefficients=b"")
    if not isinstance(made, Harmonisation):
        raise HospitalMissing(
            f"The harmonisation has no answer ({told['term']}: {told['diagnosis']}).",
            action="Mend these hospitals, or propose a study without it.",
        )
    return Harmonised(told=told, coefficients=made.bytes())


def analyse(rounds: Rounds, *, study: Study, harmonised: Harmonised | None = None) -> list[dict[str, Any]]:
    """Return the results of study.statistics.analyses, in their order, as JSON can hold them.

    Each has kind, statistic (its name in ledgers), declared, sums (secure sums opened for it), hospitals, mechanism "none" and
    epsilon "infinite", left_out (common/left_out.py) where a sum was opened, and either `result` with `adjusted` (p-values of
    its terms, adjusted for their number), or `diagnosis` and `term`: not estimable, refused by a hospital's policy, a hospital
    that was away. An analysis without an answer never ends the study, and no number is put in its place.
    `harmonised` is what `harmonise` opened before, for a study that applies it.
    """
    coefficients = harmonised.coefficients if harmonised else b""
    return [
        harmonised.told if harmonised and at == study.harmonised else _one(rounds, study, at, coefficients=coefficients)[0]
        for at in range(len(study.statistics.analyses))
    ]


def _one(rounds: Rounds, study: Study, position: int, *, coefficients: bytes) -> tuple[dict[str, Any], Any]:
    """Return one analysis as JSON can hold it, and its result as it is; None without an answer."""
    one = study.statistics.analyses[position]
    opened: dict[bytes, Opened] = {}
    told = {
        "kind": one.kind,
        "statistic": analyses.statistic(one, position=position),
        "declared": {**one.model_dump(mode="json"), **_levels(one, study)},
        "mechanism": "none",
        "epsilon": "infinite",
    }
    result = None
    try:
        result = _drive(rounds, study, position, opened, coefficients=coefficients)
        plain = _plain(result)
        found: dict[str, Any] = {"result": plain, "adjusted": adjust.of_terms(plain)}
    except NotEstimable as error:
        found = {"diagnosis": error.diagnosis, "term": error.term}
    except HospitalMissing:
        found = _why(rounds)
    except (DataError, ProtocolError) as error:
        found = {"diagnosis": error.what, "term": one.kind}
    hospitals = rounds.exchange.journal.rounds().get(rounds.number, {}).get("hospitals", []) if opened else []
    any_ = next(iter(opened.values()), None)  # every sum leaves out the same patients
    without = {"left_out": any_.left_out.plain()} if any_ else {}
    return {**told, "sums": len(opened), "hospitals": hospitals, **without, **found}, result


def _levels(one: analyses.Declared, study: Study) -> dict[str, list[str]]:
    """Return the names of the levels of an analysis' group, as its result counts them."""
    if isinstance(one, analyses.KaplanMeier | analyses.Ranks) and one.group is not None:
        return {"levels": list(study.variable(one.group).levels)}
    return {}


def _drive(rounds: Rounds, study: Study, position: int, opened: dict[bytes, Opened], *, coefficients: bytes) -> Any:  # noqa: ANN401
    """Run an analysis to its result; a query that it repeats is answered from what was opened before.

    An analysis may go on without a sum that was refused, or that its study does not allow: HospitalMissing or NotEstimable is
    raised where it asks.
    """
    one = study.statistics.analyses[position]
    running = declared.start(study, position=position)
    try:
        asked = next(running)
        while True:
            blob = asked.bytes()
            if blob not in opened and len(opened) >= analyses.queries_most(one):
                more = NotEstimable(CAP, term=one.kind, action="Propose a study with a larger queries_max.")
                asked = running.throw(more)
                continue
            try:
                if blob not in opened:
                    opened[blob] = _open(rounds, study, position, asked, number=len(opened) + 1, coefficients=coefficients)
            except HospitalMissing as error:
                asked = running.throw(error)
            else:
                asked = advance(running, opened[blob].sums)
    except StopIteration as end:
        return end.value


def advance(running: Analysis[Any], sums: Sums) -> Query:
    """Send opened sums to an analysis and return its next query; raises StopIteration with its result.

    Raises what the analysis raises; of errors that only sums can cause which no hospital's rows add up to, ProtocolError: what
    one hospital sends costs its analysis, and not the study.
    """
    try:
        return running.send(sums)
    except (ArithmeticError, LookupError, ValueError) as error:
        logs.internal_error(log, error)
        raise ProtocolError(NO_DATA, action="Ask each hospital which version it runs.") from error


def _open(rounds: Rounds, study: Study, position: int, asked: Query, *, number: int, coefficients: bytes) -> Opened:
    index, blob = analyses.index(position, number=number), asked.bytes()
    if study.harmonises(task="query", index=index):
        blob = harmonisation.pack(blob, coefficients=coefficients)
    dimension = query.dimension(asked) + left_out.ENTRIES
    announced, words = rounds.secure_sum(task="query", index=index, dimension=dimension, blob=blob, attempts=1)
    sums, without = left_out.split(ring.decode(words, bits=announced.mechanism.ring_bits).tolist())
    return Opened(sums=sums, left_out=without)


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
