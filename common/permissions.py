"""Which analyses of a study a hospital answers only where its own site.toml opens them, and why; from the study alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from common import analyses, site_sums
from common.analyses import Declared
from common.study import Study

CLUSTER_SUMS: Final = "cluster_sums"
SITE_AGGREGATES: Final = "site_aggregates"
REFUSED: Final = "refused"

Needs = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A key of a hospital's policy that an analysis needs, why, and what is without it (words to follow the analysis' name)."""

    statistic: str
    key: str
    why: str
    without: str


def needed(study: Study, *, honest: int) -> tuple[Needed, ...]:
    """Return what the study's analyses need beside `honest` hospitals that do not work with the coordinator, in its order.

    The vault asks the same of every query (client/disclosure.py, client/policy.py), for the roster of its round: a larger one
    may need less. A hospital may refuse for other reasons too, which depend on its patients.
    """
    solved = site_sums.solvable(study, honest=honest)
    return tuple(
        Needed(statistic=analyses.statistic(one, position=at), key=key, why=why, without=without)
        for at, one in enumerate(study.statistics.analyses)
        for key, why, without in _of(one, honest=honest, solved=solved)
    )


def honest(study: Study, *, hospitals: int) -> int:
    """Return how many of so many hospitals do not work with the coordinator.

    As many do as the more careful part of the study assumes: an assumption about hospitals, not sums.
    """
    noisy = (study.statistics.privacy, study.evaluation.privacy)
    return hospitals - max(study.privacy.colluders, *(part.colluders if part else 0 for part in noisy))


def _of(one: Declared, *, honest: int, solved: bool) -> Iterator[Needs]:
    """Return key, why, and what is without it."""
    if isinstance(one, analyses.KMeans | analyses.Mixture):
        yield CLUSTER_SUMS, "two of its sums can differ by one patient, who is then read", REFUSED
    elif isinstance(one, analyses.Mixed):
        yield SITE_AGGREGATES, "its sums can show a hospital's own", REFUSED
    elif isinstance(one, analyses.Absorbed | analyses.Combat | analyses.Meta):
        yield from _aggregates(one, honest=honest, solved=solved)


def _aggregates(one: analyses.Absorbed | analyses.Combat | analyses.Meta, *, honest: int, solved: bool) -> Iterator[Needs]:
    kernel = "absorbed" if isinstance(one, analyses.Absorbed) else "within" if isinstance(one, analyses.Combat) else "meta"
    few = f"beside {honest} honest hospitals"
    if honest < site_sums.HONEST_LEAST[kernel]:
        yield SITE_AGGREGATES, f"{few} a hospital's own sums follow from it", REFUSED
    elif solved:
        yield SITE_AGGREGATES, "the study's analyses together can show a hospital's own sums", REFUSED
    elif kernel == "meta" and honest < site_sums.HONEST_LEAST["meta_random"]:
        yield SITE_AGGREGATES, f"{few} a hospital's own sums follow from random effects", "answered without random effects"
    if isinstance(one, analyses.Meta) and one.kind == "forest":
        yield SITE_AGGREGATES, "a row is a hospital's own estimate", "answered with zeros in place of its own row"
