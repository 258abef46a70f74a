"""What this hospital refuses, whatever the coordinator says. Every check raises a named refusal; none returns a verdict."""

import hashlib

from client.config import Policy
from common import analyses, scores, site_sums
from common.announcement import Announcement, mechanism_for
from common.errors import OutsidePolicy, RosterNotApproved, RosterTooSmall, TooFewPatients
from common.mechanism import ROUNDING_SLACK_MOST, Exact, GaussianShare
from common.query import Query
from common.roster import Roster
from common.study import Study

NOTHING_SHA256 = hashlib.sha256(b"").hexdigest()
HONEST_LEAST = 2  # hospitals that do not work with the coordinator, in every sum


def check_study(policy: Policy, *, study: Study, roster: Roster) -> None:
    """Refuse a study that assumes less than the policy demands; the hash was approved already."""
    private = [part for part in (study.privacy, study.statistics.privacy, study.evaluation.privacy) if part is not None]
    if any(part.delta > policy.delta_cap for part in private):
        raise OutsidePolicy("The study's delta is above this hospital's cap.", action="Ask for a smaller delta.")
    if any(part.colluders < policy.colluders_min for part in private):
        raise OutsidePolicy(
            "The study assumes fewer colluding hospitals than this hospital's policy.", action="Ask for more colluders."
        )
    if study.training.local is not None and study.training.local.local_steps > policy.local_steps_max:
        raise OutsidePolicy(
            "The study makes more local steps between two sums than this hospital's policy allows.",
            action="Ask for fewer local_steps, or set local_steps_max in site.toml.",
        )
    if study.hospitals_min < policy.hospitals_min:
        raise RosterTooSmall("The study allows too small a roster.", action="Ask for a larger hospitals_min.")
    if len(roster.members) - max(part.colluders for part in private) < HONEST_LEAST:
        raise RosterTooSmall("The roster leaves fewer than two honest hospitals.", action="Enrol more hospitals.")


def check_round(policy: Policy, *, announcement: Announcement, study: Study, roster: Roster, me: str) -> None:
    """Refuse a round whose roster, task or mechanism is not exactly what the approved study implies."""
    named = announcement.hospitals
    if announcement.study != study.hash() or announcement.roster != roster.hash():
        raise RosterNotApproved("The round belongs to another study or roster.", action="Start a new run.")
    if me not in named or not set(named) <= set(roster.names):
        raise RosterNotApproved("The round names hospitals outside the approved roster.", action="Check the roster.")
    if len(named) < max(policy.hospitals_min, study.hospitals_min):
        raise RosterTooSmall("The round names too few hospitals.", action="Wait until more hospitals are back.")
    _check_unseen(announcement, study)
    assumed = {"gram": study.statistics.privacy, "evaluate": study.evaluation.privacy}.get(announcement.task)
    if len(named) - (assumed or study.privacy).colluders < HONEST_LEAST:
        raise RosterTooSmall("The round leaves fewer than two honest hospitals.", action="Wait until more are back.")
    beside = announcement.blob_sha256 != NOTHING_SHA256 and not study.harmonises(task="gram", index=0)
    if announcement.task == "gram" and (announcement.index != 0 or beside):
        raise OutsidePolicy("A Gram is asked with nothing beside it.", action="Check the coordinator's version.")
    expected = mechanism_for(
        study, task=announcement.task, hospitals=len(named), dimension=announcement.dimension, index=announcement.index
    )
    if announcement.mechanism != expected:
        raise OutsidePolicy("The round's mechanism is not the study's.", action="Check the coordinator's version.")
    if isinstance(expected, Exact) and policy.exact_releases_max == 0:
        raise OutsidePolicy("This hospital allows no exact statistics.", action="Two officers may raise exact_releases_max.")
    if isinstance(expected, GaussianShare) and expected.rounding_slack > ROUNDING_SLACK_MOST:
        raise OutsidePolicy(
            f"Rounding would add more than {100 * ROUNDING_SLACK_MOST:g} % to the sensitivity.",
            action="Plan fewer patients a step, train fewer parameters, or ask for fewer columns.",
        )
    if announcement.task == "evaluate" and announcement.index != scores.models(study):
        raise OutsidePolicy("Other models are to be scored than the study's.", action="Check the coordinator's version.")


def _check_unseen(announcement: Announcement, study: Study) -> None:
    """Refuse a step at a hospital that the study leaves out of training."""
    if announcement.task == "train" and set(study.evaluation.unseen) & set(announcement.hospitals):
        raise OutsidePolicy("A hospital is to train the model that must never see it.", action="Run the study as approved.")


def check_query(asked: Query, *, index: int, study: Study) -> None:
    """Refuse a query beyond the declared analysis: its cap, its kernels, columns, grids, or how many numbers it has."""
    position, number = analyses.place(index)
    if not 1 <= number <= analyses.queries_most(study.statistics.analyses[position]):
        raise OutsidePolicy("The analysis has no query of this number.", action="Check the coordinator's version.")
    if not any(form.admits(asked) for form in study.asked(position).forms):
        raise OutsidePolicy("The query is not one of the declared analysis.", action="Check the coordinator's version.")


def check_sums(before: frozenset[int], *, index: int, study: Study) -> None:
    """Refuse more sums of an analysis in one run than its study allows, repeated ones too: an auditor counts the same.

    `before`: the run's other rounds in which it was summed.
    """
    position, _ = analyses.place(index)
    if len(before) >= analyses.queries_most(study.statistics.analyses[position]):
        raise OutsidePolicy("The run has asked the analysis as often as its study allows.", action="Start a new run.")


def check_site_sums(policy: Policy, *, asked: Query, study: Study, honest: int) -> None:
    """Refuse sums of hospitals' own aggregates where the study's analyses together would solve for them, unless allowed."""
    if asked.kernel in site_sums.KERNELS and not policy.site_aggregates and site_sums.solvable(study, honest=honest):
        raise OutsidePolicy(
            "The study's analyses together would show this hospital's own sums.",
            action="Ask for fewer models of the same variables, or set site_aggregates in site.toml.",
        )


def check_models(study: Study, *, seen: tuple[str, ...], scored: tuple[str, ...]) -> None:
    """Refuse to score models that training did not pass through.

    `seen`: SHA-256 of the models that this hospital trained on. The last two were never sent before, nor were those of steps
    that this hospital missed.
    """
    distinct = set(seen)
    unknown_allowed = scores.models(study) - min(len(distinct), study.training.steps)
    if sum(model not in distinct for model in scored) > unknown_allowed:
        raise OutsidePolicy("Models are to be scored that training did not pass through.", action="Run the study as approved.")


def check_cohort(policy: Policy, *, patients: int) -> None:
    """Refuse a cohort, or the rows that enter an exact sum, below the hospital's minimum."""
    if patients < policy.patients_min:
        raise TooFewPatients("Fewer patients are usable than this hospital's minimum.", action="Run `motet-hospital status`.")
