"""Training in either rhythm, phase by phase: a secure sum, a step of the study's optimiser, the next model."""

from pathlib import Path

from common import files, model
from common.announcement import Announcement
from common.crypto import encoding, ring
from common.mechanism import LocalSteps, SampledStep
from common.phases import Phase, phases
from common.study import Study
from server import scorable, step
from server.rounds import Rounds
from server.step import OptimiserState

__all__ = ["train"]


def train(rounds: Rounds, *, study: Study, folder: Path) -> tuple[bytes, ...]:
    """Return the model before and after every step, and the final one last; the optimiser's state is written to `folder`.

    A phase begins where the average of the one before ended. All rounds share the study's allowance of void ones.
    Raises ConfigError where so many models could not be scored, HospitalMissing when the allowance is used up or too few
    hospitals are left.
    """
    scorable.check(study)
    recipe = study.recipe
    channels = recipe.channels
    network = model.build(study.training, channels=channels, patch_voxels=recipe.patch_voxels)
    model.load(network, model.initial(study.training, channels=channels, patch_voxels=recipe.patch_voxels))
    checkpoints, voids_left = [model.dump(network)], study.privacy.rounds_void_allowed
    for phase in phases(study.training):
        if phase.before:  # what the phase before ended with is where this one begins
            checkpoints[-1] = model.dump(network)
        names = model.trainable_names(network, phase.training)
        state = step.start(model.flat(network, names), training=phase.training)
        while state.steps_done < phase.training.steps:
            before = rounds.number
            announced, words = rounds.secure_sum(
                task="train",
                index=phase.before + state.steps_done + 1,
                dimension=len(state.position) + (phase.training.local is not None),
                blob=checkpoints[-1],
                attempts=1 + voids_left,
            )
            voids_left -= rounds.number - before - 1
            state = _stepped(state, announced, words, phase=phase, study=study)
            model.with_flat(network, names, state.position)
            checkpoints.append(model.dump(network))
            files.write(folder / "optimiser.safetensors", state.to_bytes())
        model.with_flat(network, names, step.final(state, training=phase.training))
    return (*checkpoints, model.dump(network))


def _stepped(
    state: OptimiserState, announced: Announcement, words: ring.Words, *, phase: Phase, study: Study
) -> OptimiserState:
    mechanism = announced.mechanism
    if isinstance(mechanism, LocalSteps):
        changes, _ = encoding.decode(words, encoding=encoding.of(mechanism))
        return step.step_of_changes(state, changes, hospitals=mechanism.hospitals, training=phase.training)
    if not isinstance(mechanism, SampledStep):
        raise TypeError("a training round has a Gaussian mechanism")
    total = ring.decode(words, bits=mechanism.ring_bits) * mechanism.grid_step
    return step.step(state, total, training=phase.training, privacy=study.privacy)
