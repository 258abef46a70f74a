"""Membership inference with shadow models: LiRA and RMIA on trained heads, and what their guesses prove of epsilon.

Half of the models are shadows, of which the attacker knows who was in; the others are targets. Given the shadows, the targets
are one private mechanism with a bit for each pair of target and patient, so one bound of epsilon holds for all guesses
(one_run.py), however those of one target hang together; for rates of members found, targets are clusters (clustered.py).
Written from the papers. LiRA: Carlini et al. 2022 (arXiv 2112.03570), online, one deviation for all patients and both worlds,
as advised for few shadows. RMIA: Zarifzadeh, Liu, Shokri 2024 (arXiv 2312.03262), online, gamma 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp

from common.audit.attack import membership, one_run
from common.audit.attack.check import Check
from common.audit.attack.membership import Found
from common.audit.attack.one_run import GUESSED, Plan

Float = NDArray[np.float64]
Flags = NDArray[np.bool_]

REFERENCES_FEW: Final = 2  # models of RMIA's cheap form: one pair
VARIANCE_LEAST: Final = 1e-6  # of log-odds: one pair of shadows shows none


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Models of one kind: `inside` (model, patient), and each one's log-odds of the right label.

    `patients` (model, patient) are of those who were in or out, `strangers` (model, stranger) of pictures that no model saw.
    """

    inside: Flags
    patients: Float
    strangers: Float

    def __post_init__(self) -> None:
        if self.inside.shape != self.patients.shape or len(self.strangers) != len(self.patients):
            raise ValueError("memberships and log-odds do not belong together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one attack found over all targets: AUROC, members at few false alarms, the epsilon that its surest guesses prove."""

    attack: str
    auroc: float
    found: list[Found]
    made: int
    correct: int
    epsilon_least: float
    epsilon_claimed: float


def attack(*, shadows: Models, targets: Models, plan: Plan) -> list[Result]:
    """Return what each attack finds, with `plan` as the claim.

    Shadows come in pairs that share no patient and together hold all (models 2 k and 2 k + 1). Raises ValueError where a
    patient was never in or never out of a shadow, or no target held anybody, or all of them everybody.
    """
    held = shadows.inside
    if not (held.any(axis=0).all() and (~held).any(axis=0).all() and targets.inside.any() and not targets.inside.all()):
        raise ValueError("each patient must be in some shadow and out of another, and some must be in and some out of targets")
    scores = {
        f"LiRA, {len(held)} shadows": lira(shadows=shadows, targets=targets),
        f"RMIA, {len(held)} references": rmia(shadows=shadows, targets=targets),
        f"RMIA, {REFERENCES_FEW} references": rmia(shadows=_first(shadows, REFERENCES_FEW), targets=targets),
    }
    return [_judged(name, found, inside=targets.inside, plan=plan) for name, found in scores.items()]


def lira(*, shadows: Models, targets: Models) -> Float:
    """Return the likelihood-ratio score of each patient in each target, (target, patient): Gaussians fitted to the shadows."""
    inside, outside = (_means(shadows.patients, where) for where in (shadows.inside, ~shadows.inside))
    off = shadows.patients - np.where(shadows.inside, inside, outside)
    variance = max(float(np.square(off).mean()), VARIANCE_LEAST)
    score: Float = (np.square(targets.patients - outside) - np.square(targets.patients - inside)) / (2 * variance)
    return score


def rmia(*, shadows: Models, targets: Models) -> Float:
    """Return for each patient in each target, (target, patient), of which part of the strangers its likelihood ratio is above.

    Ratio: the target's probability of the right label over the mean of the references'.
    """
    ratios = log_expit(targets.patients) - _log_mean(shadows.patients)
    against = np.sort(log_expit(targets.strangers) - _log_mean(shadows.strangers), axis=1)
    below = [np.searchsorted(row, own, side="right") for row, own in zip(against, ratios, strict=True)]
    found: Float = np.array(below, np.float64) / against.shape[1]
    return found


def checks(results: Sequence[Result], *, plan: Plan, canaries: int, name: str) -> Iterator[Check]:
    """Yield for each attack: members found are below the ceiling, and the epsilon that it proves is below the claim."""
    for one in results:
        yield from membership.checks(one.found, name=f"{name}: {one.attack}")
        p = one_run.p_value(one.epsilon_claimed, canaries=canaries, made=one.made, correct=one.correct, delta=float(plan.delta))
        yield Check(
            name=f"{name}: {one.attack}: epsilon",
            claim=f"at most {one.epsilon_claimed:.2f}",
            seen=f"at least {one.epsilon_least:.2f} ({one.correct} of {one.made} guesses right; AUROC {one.auroc:.3f})",
            p=p,
        )


def power(bare: Sequence[Result], *, plan: Plan) -> Check:
    """Return the check that the attacks can win: where nothing is clipped and no noise added, one passes what `plan` allows.

    By AUROC, which so few guesses tell better than the rates at few false alarms; the first of these is said beside it.
    """
    best = max(bare, key=lambda one: one.auroc)
    first = best.found[0]
    allowed, _ = one_run.expectation(plan, inside=first.members, outside=first.members)
    return Check(
        name=f"heads without clipping and noise: {best.attack}",
        claim=f"AUROC above {allowed:.3f}, the most that noise allows: the attack can win",
        seen=f"{best.auroc:.3f}; {100 * first.rate:.1f} % of members at {100 * first.false_alarm:g} % false alarms",
        p=float(best.auroc > allowed),
    )


def _judged(name: str, by_target: Float, *, inside: Flags, plan: Plan) -> Result:
    models = np.repeat(np.arange(len(inside)), inside.shape[1])
    scores, inside = by_target.ravel(), inside.ravel()
    each = max(1, len(scores) // GUESSED)
    order = np.argsort(scores, kind="stable")
    correct = int(inside[order[-each:]].sum() + (~inside[order[:each]]).sum())
    return Result(
        attack=name,
        auroc=one_run.auroc(scores, inside=inside),
        found=membership.found_by(scores, inside=inside, plan=plan, models=models),
        made=2 * each,
        correct=correct,
        epsilon_least=one_run.epsilon_least(canaries=len(scores), made=2 * each, correct=correct, delta=float(plan.delta)),
        epsilon_claimed=plan.epsilon(),
    )


def _means(values: Float, where: Flags) -> Float:
    """Return the mean of each column over the rows where it counts."""
    found: Float = (values * where).sum(axis=0) / where.sum(axis=0)
    return found


def _log_mean(odds: Float) -> Float:
    """Return the logarithm of the mean probability over the models, (column,)."""
    return np.asarray(logsumexp(log_expit(odds), axis=0) - np.log(len(odds)))


def _first(models: Models, number: int) -> Models:
    return Models(inside=models.inside[:number], patients=models.patients[:number], strangers=models.strangers[:number])
