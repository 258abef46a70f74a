"""A study or a roster in words: what would leave this hospital, or who would take part, read before it is approved."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from client.config import Policy
from client.policy import HONEST_LEAST
from common import analyses, announcement, modality, noisy_moments, parameters, permissions, scores
from common.analyses import Declared
from common.audit.show import printable
from common.canonical import decimal_text
from common.errors import ConfigError
from common.ledger import accounting
from common.mechanism import GaussianShare
from common.roster import Roster, in_groups
from common.study import Study
from common.training import Training

DIMENSION_MOST: Final = 1 << 28  # no announced vector is longer: an upper bound that needs no network built
FIXED: Final = 2  # exact sums beside the declared analyses: the Gram and the score histograms


def study(proposed: Study, *, policy: Policy) -> tuple[str, ...]:
    """Return the study in sentences, one a line: what leaves exactly, what with noise and at which epsilon, who is held out.

    Epsilons are those that the ledger's gate counts (Renyi accounting, rounded up), of one run with all its void rounds;
    `policy` is named beside them where it sets the limit. Nothing in a study's own text can steer a terminal.
    Raises ConfigError on noise that no hospital could make, and on an image variable that no hospital measures.
    """
    parameters.check(proposed)
    return tuple(printable(line) for line in _lines(proposed, policy))


def roster(proposed: Roster) -> tuple[str, ...]:
    """Return the coordinator and the members, one a line, each with the identity to compare by telephone."""
    once = ", ".join(one.name for one in proposed.members if not one.ledger_ml_dsa)
    return (
        f"Roster of {printable(proposed.federation)}, {len(proposed.members)} hospitals. Compare identities by telephone:",
        f"  {proposed.coordinator} (coordinator): {in_groups(proposed.coordinator_identity)}",
        *(f"  {one.name}: {in_groups(one.identity)}" for one in proposed.members),
        *([f"Ledgers signed with Ed25519 alone, as these enrolled without a key of ML-DSA-44: {once}."] if once else []),
    )


def _lines(study: Study, policy: Policy) -> Iterator[str]:
    yield f"Study {study.name}: {study.title} (purpose: {study.purpose})."
    for source, shown in (("image", "the scans"), ("clinical", "the clinical table")):
        names = [one.name for one in study.variables if one.source == source]
        yield f"Variables from {shown}: {', '.join(names) or 'none'}."
    yield _recipe(study)
    yield "Leaves exactly (no noise, epsilon infinite; each number is a sum over all hospitals of the round):"
    yield from (f"  {line}" for line in _exact(study))
    noisy = (study.statistics.privacy, study.evaluation.privacy)
    counted = len(study.statistics.analyses) + FIXED - sum(part is not None for part in noisy)
    too_few = "" if counted <= policy.exact_releases_max else ": too few, what comes last is refused"
    yield f"  These count as {counted} against exact_releases_max, which is {policy.exact_releases_max} here{too_few}."
    yield from (f"  {line}" for line in _permitted(study, policy))
    yield "Leaves with noise (epsilon and delta per patient, each patient's whole contribution):"
    yield from (f"  {line}" for line in _noisy(study, policy))
    yield _held_out(study)
    yield _harmonised(study)
    yield (
        f"Rounds: at least {study.hospitals_min} hospitals (your minimum is {policy.hospitals_min}); the noise is enough "
        f"although {_hospitals(study.privacy.colluders)} may work with the coordinator (your minimum: {policy.colluders_min})."
    )


def _exact(study: Study) -> Iterator[str]:
    wanted = study.statistics
    if wanted.privacy is None:
        yield f"Gram: sums and products of {len(study.columns())} columns ({', '.join(study.columns())}); {_read_from(study)}."
    for position, one in enumerate(wanted.analyses):
        most = analyses.queries_most(one)
        shown = f"at most {most} different sums" if most > 1 else "one sum"
        yield f"{analyses.statistic(one, position=position)}: {_what(one)}; {shown} about the same patients."
    if study.evaluation.privacy is None:
        yield f"Scores of {scores.models(study)} models over the held-out patients: {_scored(study)}."


def _scored(study: Study) -> str:
    """Return which tables an evaluation holds, and what stands apart in them."""
    training, wanted = study.training, study.evaluation
    told = "sums of errors, values and their products"
    if training.head != "regression":
        told = f"histograms by class, in {training.score_bins} bins"
    if training.head in {"classes", "ordinal"}:
        told += ", and which class is taken for which"
    if wanted.subgroups:
        told += f"; of the last model apart by {', '.join(one.variable for one in wanted.subgroups)}"
    if wanted.unseen:
        told += f"; apart those of {', '.join(wanted.unseen)}, where no training is done"
    return told + ("; your own apart, where site_aggregates allows it" if wanted.by_hospital else "")


def _learned(study: Study) -> str:
    training = study.training
    if training.positive_above is not None:
        return f"{training.label} above {decimal_text(training.positive_above)}"
    return f"{training.label} ({', '.join(training.classes) or 'its value'})"


def _permitted(study: Study, policy: Policy) -> Iterator[str]:
    """Say what this hospital's policy does to analyses that are answered only where it opens them, for the fewest hospitals."""
    allowed = {permissions.CLUSTER_SUMS: policy.cluster_sums, permissions.SITE_AGGREGATES: policy.site_aggregates}
    least = max(study.hospitals_min, policy.hospitals_min)
    first = study.harmonised is not None and f"analysis-{study.harmonised + 1}-combat"
    for one in permissions.needed(study, honest=permissions.honest(study, hospitals=least)):
        where = f"Over {_hospitals(least)}, the fewest: " if "honest" in one.why or "together" in one.why else ""
        if allowed[one.key]:
            yield f"Allowed here by {one.key}: {where}{one.statistic}: {one.why}."
        else:
            ends = ", and with it every sum of its features" if one.statistic == first else ""
            yield f"Closed here ({one.key} is false): {where}{one.statistic} is {one.without}{ends}: {one.why}."


def _recipe(study: Study) -> str:
    """Say what every scan goes through, and which lesions are measured; `motet-hospital preview` shows it."""
    recipe = study.recipe
    whole = modality.whole([one.name for one in study.variables if one.source == "image"], modality=recipe.modality)
    steps = ["the bias field is taken out by n4"] if recipe.filters and recipe.filters.bias_field == "n4" else []
    if recipe.irregular == "resample":
        steps.append("tilted or uneven stacks are resampled through their slices' true positions")
    if recipe.modality != "CT":
        steps.append("intensities are normalised")
    steps.append(f"voxels become {decimal_text(recipe.spacing_mm)} mm")
    if recipe.denoise != "none":
        steps.append(f"noise is filtered ({recipe.denoise}, {decimal_text(recipe.denoise_mm)} mm)")
    if recipe.edge_channel:
        steps.append(f"the network also sees edges ({recipe.filters.edges if recipe.filters else 'gradient'})")
    found = recipe.points
    lesions = "the whole picture" if whole else "lesions that were drawn"
    if found is not None:
        lesions += (
            f", or are found from a point or box that you mark ({found.method}, agreement {decimal_text(found.agreement_min)})"
        )
    return f"Each scan of {recipe.modality}, others are set aside: {', '.join(steps)}. Measured: {lesions}."


def _read_from(study: Study) -> str:
    wanted = study.statistics
    regression = f"{wanted.regression.outcome} ~ {' + '.join(wanted.regression.predictors)}"
    read = [f"correlation of {', '.join(wanted.correlation)}", f"regression {regression}"]
    read += [f"model {text}" for text in wanted.models]
    read += [f"means of {one.outcome} by {one.factor}" for one in wanted.groups]
    read += [f"analysis of covariance {one.formula}" for one in wanted.ancova]
    read += [f"Table 1 of {', '.join(wanted.descriptive)}"] if wanted.descriptive else []
    return "from it are read: " + "; ".join(read)


def _what(one: Declared) -> str:
    """Return the variables of an analysis as the study spells them."""
    plain = one.model_dump(mode="json", exclude={"kind", "queries_max"}, exclude_none=True)
    return ", ".join(f"{key} {_shown(value)}" for key, value in plain.items() if value)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)


def _noisy(study: Study, policy: Policy) -> Iterator[str]:
    private, privacy, training = study.statistics.privacy, study.privacy, study.training
    released: list[GaussianShare] = []
    if private is not None:
        one = _mechanism(study, task="gram", dimension=noisy_moments.packed_size(len(study.columns())))
        released += [one] * (1 + private.rounds_void_allowed)
        yield (
            f"Gram of {len(study.columns())} columns ({', '.join(study.columns())}), once: {_spent(released, private.delta)}; "
            f"{_noise(one)}; at most {private.patients_max} complete patients here; {_read_from(study)}."
        )
    one = _mechanism(study, task="train", dimension=DIMENSION_MOST)
    steps = [one] * (training.steps + privacy.rounds_void_allowed)
    yield (
        f"Training ({training.model}) on {_learned(study)}, "
        f"{_steps(training)} and at most {privacy.rounds_void_allowed} more for void rounds: "
        f"{_spent(steps, privacy.delta)}; {_noise(one)}; "
        f"each patient is in a step with probability {decimal_text(privacy.sampling_rate)}."
    )
    evaluated = study.evaluation.privacy
    if evaluated is not None:
        one = _mechanism(study, task="evaluate", dimension=scores.dimension(study))
        again = [one] * (1 + evaluated.rounds_void_allowed)
        released += again
        yield (
            f"Scores of the final model over the held-out patients, once: {_spent(again, evaluated.delta)}; {_noise(one)}; "
            f"at most {evaluated.patients_max} scored patients here; {_scored(study)}."
        )
    yield (
        f"Together: {_spent([*released, *steps], privacy.delta)} for a run; another run costs it again. Your epsilon_cap is "
        f"{decimal_text(policy.epsilon_cap)} over all studies, your delta_cap {decimal_text(policy.delta_cap)}"
        f"{_over(study, policy, [*released, *steps])}."
    )


def _over(study: Study, policy: Policy, released: list[GaussianShare]) -> str:
    """Say what the caps of this hospital, with nothing spent yet, would refuse of a run with all its void rounds."""
    parts = (study.privacy, study.statistics.privacy, study.evaluation.privacy)
    said = ""
    if accounting.round_up(accounting.epsilon_rdp(released, delta=study.privacy.delta)) > policy.epsilon_cap:
        said += "; that is less than the run's epsilon, and what comes last is refused"
    if any(part is not None and part.delta > policy.delta_cap for part in parts):
        said += "; that is less than a delta of the study, which is refused"
    return said


def _steps(training: Training) -> str:
    if training.local is None:
        return f"{training.steps} steps, each a sum with noise that the hospitals share,"
    return f"{training.steps} sums of {training.local.local_steps} private steps here each, every step with the whole noise,"


def _mechanism(study: Study, *, task: str, dimension: int) -> GaussianShare:
    privacy = {"gram": study.statistics.privacy, "evaluate": study.evaluation.privacy}.get(task) or study.privacy
    many = max(study.hospitals_min, privacy.colluders + HONEST_LEAST)
    try:
        found = announcement.mechanism_for(study, task=task, hospitals=many, dimension=dimension)
        if not isinstance(found, GaussianShare):
            raise TypeError("this task has no noise")
        accounting.effective_noise_multiplier(found)
    except ValueError as error:
        raise ConfigError(
            f"The study's noise cannot be made: {error}.", action="Ask the coordinator for another study."
        ) from None
    return found


def _spent(released: list[GaussianShare], delta: Decimal) -> str:
    epsilon = accounting.round_up(accounting.epsilon_rdp(released, delta=delta))
    shown = f"epsilon at most {decimal_text(epsilon)}" if epsilon.is_finite() else "epsilon infinite"
    return f"{shown} at delta {decimal_text(delta)}"


def _noise(one: GaussianShare) -> str:
    return f"noise multiplier {decimal_text(one.noise_multiplier)}, clipping norm {decimal_text(one.clip_norm)}"


def _held_out(study: Study) -> str:
    share = decimal_text(100 * study.training.held_out_fraction)
    return f"Held out: {share} % of the patients, never trained on, only scored at the end; statistics are over all patients."


def _harmonised(study: Study) -> str:
    if study.harmonised is None:
        return "Harmonisation between hospitals: none."
    one = study.statistics.analyses[study.harmonised]
    return f"Harmonisation between hospitals (ComBat) comes first: {_what(one)}; your own shift and scale never leave."


def _hospitals(count: int) -> str:
    return f"{count} hospital{'' if count == 1 else 's'}"
