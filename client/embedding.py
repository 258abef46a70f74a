"""The embedding of a lesion's view under the public weights that a study starts from (common/embedding.py)."""

from functools import lru_cache

import numpy as np
import torch

from client.inside import View
from common import embedding, model
from common.networks.network import Network
from common.study import Study
from common.training import Training

__all__ = ["measure", "wanted"]


def wanted(study: Study) -> tuple[str, ...]:
    """Return which dimensions the study names as variables, in its order."""
    return tuple(one.name for one in study.variables if one.source == "image" and embedding.named(one.name))


def measure(view: View, *, study: Study) -> dict[str, float]:
    """Return the named dimensions of the embedding of one view, of the recipe's `view_shape`; nothing where none is named.

    A number of this view and of public weights alone: views are computed one by one. A dimension that the network does not
    have is left out, which common/parameters.py refuses before. Raises ConfigError when the installed prior is not the one
    that the study names.
    """
    asked = wanted(study)
    if not asked:
        return {}
    network = _network(study.training, channels=study.recipe.channels, patch_voxels=study.recipe.patch_voxels)
    with torch.no_grad():
        embedded = network.embed(torch.from_numpy(np.array(view.pixels[None])))[0].double().tolist()
    found = dict(zip(embedding.names(study.training.model), embedded, strict=True))
    return {name: found[name] for name in asked if name in found}


@lru_cache(maxsize=2)
def _network(training: Training, *, channels: int, patch_voxels: int) -> Network:
    network = model.build(training, channels=channels, patch_voxels=patch_voxels)
    model.load(network, model.initial(training, channels=channels, patch_voxels=patch_voxels))
    return network
