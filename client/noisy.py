"""Which releases with noise a run may make, and at which delta each is charged: from the study alone."""

from dataclasses import replace
from decimal import Decimal

from client.session import Session
from common.announcement import Announcement
from common.errors import OutsidePolicy
from common.study import Study


def delta(announced: Announcement, *, study: Study) -> Decimal:
    """Return the delta at which the announced release is charged: that of the Gram's or the scores' noise, or of training."""
    private = {"gram": study.statistics.privacy, "evaluate": study.evaluation.privacy}.get(announced.task)
    return study.privacy.delta if private is None else private.delta


def count(state: Session, announced: Announcement, *, study: Study) -> Session:
    """Refuse more noisy releases in one run than the study's Gram, steps and scores, each with its allowance of void rounds."""
    private = study.statistics.privacy
    if private is not None and announced.task == "gram":
        if state.noisy_grams > private.rounds_void_allowed:
            raise OutsidePolicy("The study's noisy Gram is used up.", action="Propose a new study.")
        return replace(state, noisy_grams=state.noisy_grams + 1)
    scores = study.evaluation.privacy
    if scores is not None and announced.task == "evaluate":
        if state.noisy_scores > scores.rounds_void_allowed:
            raise OutsidePolicy("The study's noisy scores are used up.", action="Propose a new study.")
        return replace(state, noisy_scores=state.noisy_scores + 1)
    allowed = study.training.steps + study.privacy.rounds_void_allowed
    if state.noisy_rounds >= allowed or not 1 <= announced.index <= study.training.steps:
        raise OutsidePolicy("The study's steps are used up.", action="Propose a new study.")
    return replace(state, noisy_rounds=state.noisy_rounds + 1, models=(*state.models, announced.blob_sha256))
