"""The announcement of one round: who, what, and under which mechanism. Its bytes are hashed into the context of every mask."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common import analyses, canonical, mechanism, rhythm, scores
from common.errors import BadEnvelope, OutsidePolicy
from common.mechanism import SHARE_BITS_MOST, Exact, LocalSteps, Mechanism, NoisyGram, NoisyScores, SampledStep
from common.privacy import GramPrivacy, Privacy, ScoresPrivacy
from common.study import Study

TASKS: Final = ("gram", "query", "train", "evaluate")
ROUNDS_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One round: its number, its hospitals in sorted order, its task, and the vector that each of them uploads.

    `index` is the step of `train`, the number of models of `evaluate`, and for `query` the analysis and the running number of
    its query (analyses.index); 0 for `gram`.
    """

    run: str
    study: str
    roster: str
    round: int
    hospitals: tuple[str, ...]
    task: str
    index: int
    dimension: int
    blob_sha256: str
    mechanism: Mechanism

    def plain(self) -> dict[str, Any]:
        """Return the announcement as JSON."""
        return {
            "run": self.run,
            "study": self.study,
            "roster": self.roster,
            "round": self.round,
            "hospitals": list(self.hospitals),
            "task": self.task,
            "index": self.index,
            "dimension": self.dimension,
            "blob_sha256": self.blob_sha256,
            "mechanism": self.mechanism.entry(),
        }

    def bytes(self) -> bytes:
        """Return the canonical bytes that every mask of the round is bound to."""
        return canonical.encode(self.plain())


def parse(plain: Mapping[str, Any]) -> Announcement:
    """Read an announcement; raises BadEnvelope when a part is missing, unknown, or of the wrong type or size."""
    try:
        announcement = Announcement(
            run=plain["run"],
            study=plain["study"],
            roster=plain["roster"],
            round=_integer(plain["round"]),
            hospitals=tuple(plain["hospitals"]),
            task=plain["task"],
            index=_integer(plain["index"]),
            dimension=_integer(plain["dimension"]),
            blob_sha256=plain["blob_sha256"],
            mechanism=mechanism.from_entry(plain["mechanism"]),
        )
        if announcement.plain() != plain:
            raise ValueError("unknown keys or wrong types")
        texts = (announcement.run, announcement.study, announcement.roster, announcement.blob_sha256)
        if not all(isinstance(text, str) for text in texts) or not announcement.hospitals:
            raise TypeError("a name or a hash is not a string, or no hospital is named")
        if announcement.task not in TASKS or not 1 <= announcement.round <= ROUNDS_MOST:
            raise ValueError("unknown task or round")
        if not 0 <= announcement.index <= ROUNDS_MOST or not 1 <= announcement.dimension <= 1 << 28:
            raise ValueError("index or dimension out of range")
        names = list(announcement.hospitals)
        if names != sorted(set(names)) or not all(isinstance(name, str) for name in names):
            raise ValueError("hospitals are not a sorted set of names")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadEnvelope("An announcement is malformed.", action="Check that both sides run the same version.") from None
    return announcement


def _integer(value: object) -> int:
    if type(value) is not int:
        raise TypeError("not an integer")
    return value


def is_exact(study: Study, *, task: str) -> bool:
    """Tell whether a task's sum leaves without noise: all but training, and a Gram or scores that a study wants so."""
    private = {"gram": study.statistics.privacy, "evaluate": study.evaluation.privacy}
    return task != "train" and private.get(task) is None


def mechanism_for(study: Study, *, task: str, hospitals: int, dimension: int, index: int = 0) -> Mechanism:
    """Return the only mechanism that `study` allows for a task; both sides derive it, neither chooses it.

    A query's statistic is the declared analysis that it belongs to, so that ledgers say which analysis a sum was for.
    Raises OutsidePolicy when the study declares no such analysis.
    """
    if task == "gram":
        private = study.statistics.privacy
        return Exact(statistic="gram", ring_bits=128) if private is None else _noisy_gram(private, hospitals, dimension)
    if task == "query":
        declared, (position, _) = study.statistics.analyses, analyses.place(index)
        if not 0 <= position < len(declared):
            raise OutsidePolicy("The study declares no such analysis.", action="Check the coordinator's version.")
        return Exact(statistic=analyses.statistic(declared[position], position=position), ring_bits=128)
    if task == "evaluate":
        noisy = study.evaluation.privacy
        exact = Exact(statistic="score-histogram", ring_bits=64)
        return exact if noisy is None else _noisy_scores(noisy, hospitals, dimension, entries=scores.entries(study))
    privacy, training = study.privacy, study.training
    if training.local is not None:
        return local_steps(study, hospital=None, hospitals=hospitals, dimension=dimension - 1)  # the last word counts cut-offs
    return SampledStep(
        noise_multiplier=privacy.noise_multiplier,
        clip_norm=privacy.clip_norm,
        sampling_rate=privacy.sampling_rate,
        hospitals=hospitals,
        colluders=privacy.colluders,
        dimension=dimension,
        patients_per_step_max=training.patients_per_step_max,
        share_bits=_share_bits(privacy, hospitals=hospitals, patients=training.patients_per_step_max, ring_bits=32),
        ring_bits=32,
    )


def charged(study: Study, announced: Mechanism, *, hospital: str) -> Mechanism:
    """Return what one hospital is charged for a round: the announced mechanism, with its own rate where it samples alone."""
    if not isinstance(announced, LocalSteps):
        return announced
    return local_steps(study, hospital=hospital, hospitals=announced.hospitals, dimension=announced.dimension)


def local_steps(study: Study, *, hospital: str | None, hospitals: int, dimension: int) -> LocalSteps:
    """Return what a round of local steps is charged as at `hospital`; for none, with the largest rate, as it is announced.

    `dimension` is that of the model. Raises ValueError when the study has no local steps.
    """
    privacy, training, local = study.privacy, study.training, study.training.local
    if local is None:
        raise ValueError("the study has no local steps")
    return LocalSteps(
        noise_multiplier=privacy.noise_multiplier,
        clip_norm=privacy.clip_norm,
        sampling_rate=privacy.sampling_rate if hospital is None else local.rate(hospital, most=privacy.sampling_rate),
        hospitals=hospitals,
        colluders=privacy.colluders,
        dimension=dimension,
        share_bits=SHARE_BITS_MOST,
        ring_bits=rhythm.RING_BITS,
        patients_per_step_max=training.patients_per_step_max,
        local_steps=local.local_steps,
        scale_bits=rhythm.scale_bits(local.update_norm, hospitals=hospitals),
    )


def _noisy_gram(privacy: GramPrivacy, hospitals: int, dimension: int) -> NoisyGram:
    return NoisyGram(
        noise_multiplier=privacy.noise_multiplier,
        clip_norm=privacy.clip_norm,
        hospitals=hospitals,
        colluders=privacy.colluders,
        dimension=dimension,
        patients_max=privacy.patients_max,
        share_bits=_share_bits(privacy, hospitals=hospitals, patients=privacy.patients_max, ring_bits=64),
        ring_bits=64,
    )


def _noisy_scores(privacy: ScoresPrivacy, hospitals: int, dimension: int, *, entries: int) -> NoisyScores:
    return NoisyScores(
        noise_multiplier=privacy.noise_multiplier,
        hospitals=hospitals,
        colluders=privacy.colluders,
        dimension=dimension,
        entries=entries,
        patients_max=privacy.patients_max,
        share_bits=_share_bits(privacy, hospitals=hospitals, patients=privacy.patients_max, ring_bits=64),
        ring_bits=64,
    )


def _share_bits(privacy: Privacy | GramPrivacy | ScoresPrivacy, *, hospitals: int, patients: int, ring_bits: int) -> int:
    return mechanism.largest_share_bits(
        noise_multiplier=privacy.noise_multiplier,
        hospitals=hospitals,
        colluders=privacy.colluders,
        patients_per_step_max=patients,
        ring_bits=ring_bits,
    )
