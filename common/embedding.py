"""Image variables of another kind: what the study's network makes of a lesion, one variable a dimension of its embedding.

The weights are those that the study starts from, public and named by `prior_sha256`; training by the recipe `head` leaves them
as they are, so that there it is the trained network's embedding too. A vault computes it from the lesion's view, like any
measured parameter: clusters, principal components and models may name it.
"""

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["SIZES", "named", "names"]

SIZES: Final[Mapping[str, int]] = {"cnn2d": 12, "resnet18": 512, "cnn3d": 64}  # networks': importing them would import torch
_NAME: Final = re.compile(r"embedding_[1-9][0-9]{0,2}")


def names(network: str) -> tuple[str, ...]:
    """Return the variables of a network's embedding, in order; none of a network that is not known."""
    return tuple(f"embedding_{number}" for number in range(1, SIZES.get(network, 0) + 1))


def named(name: str) -> bool:
    """Say whether a variable is a dimension of an embedding, of whatever network."""
    return _NAME.fullmatch(name) is not None
