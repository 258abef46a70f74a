"""Whether the models that an evaluation scores fit one envelope: asked before the first step, not after the last."""

from common import scores, wire
from common.errors import ConfigError
from common.study import Study

__all__ = ["check"]

PART_BYTES = 4  # before each model in the blob, see wire.pack


def check(study: Study) -> None:
    """Raise ConfigError where the models that the study scores are longer together than an envelope may be.

    An exact evaluation scores the model after every step; one with noise scores the last alone.
    """
    from common import model  # noqa: PLC0415  (torch takes seconds)

    recipe = study.recipe
    whole = study.training.model_copy(update={"recipe": "full", "finetune": None})
    size = model.trainable_size(whole, channels=recipe.channels, patch_voxels=recipe.patch_voxels)
    each = 4 * size + model.HEADER_BYTES_MOST + PART_BYTES
    if scores.models(study) * each > wire.BLOB_BYTES_MOST:
        raise ConfigError(
            f"The {scores.models(study)} models of {each // 1000} kB that the evaluation scores do not fit one envelope.",
            action=f"Plan at most {wire.BLOB_BYTES_MOST // each - 2} steps, or an [evaluation.privacy]: it scores one model.",
        )
