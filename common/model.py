"""A study's network by name: its first weights, what of it is trained, and the bytes in which it travels.

What crosses the wall are safetensors bytes with exactly the names, shapes and dtypes of this network; all else is refused.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import nn

from common.errors import BadEnvelope, ConfigError, ProtocolError
from common.networks import heads, weights
from common.networks.cnn2d import Cnn2d
from common.networks.cnn3d import Cnn3d
from common.networks.network import Network
from common.networks.resnet18 import ResNet18
from common.training import Training

HEAD = ("head.weight", "head.bias")
HEADER_BYTES_MOST = 8192
KEPT = 16  # results per process that follow from a study alone, and are asked for in every round
PRIOR_FILE = "prior_cnn2d.safetensors"
NETWORKS: Mapping[str, type[Network]] = {"cnn2d": Cnn2d, "resnet18": ResNet18, "cnn3d": Cnn3d}


def build(training: Training, *, channels: int, patch_voxels: int, outputs: int | None = None) -> Network:
    """Return the study's network, all weights zero, ready for `load`, with the study's head or one of so many `outputs`.

    Raises ConfigError when the images do not fit it.
    """
    kind, name = NETWORKS.get(training.model), training.model
    if kind is None:
        raise ConfigError(f"The network {name} is not known.", action=f"Write model = {' or '.join(NETWORKS)}.")
    if channels not in kind.channels:
        raise ConfigError(f"{name} takes 1 or 2 channels, not {channels}.", action="Change [recipe].")
    if patch_voxels < kind.patch_voxels_least:
        raise ConfigError(f"{name} needs {kind.patch_voxels_least} voxels or more.", action="Raise patch_voxels.")
    with torch.device("meta"):  # no weights are drawn: no generator is touched
        model = kind(channels=channels, outputs=heads.of(training).outputs if outputs is None else outputs)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@lru_cache(maxsize=2)
def prior_bytes(name: str = "cnn2d") -> bytes:
    """Return what a network starts from, with two channels; no real image among what made it.

    cnn2d: features learned on images of random processes, as shipped. Others: first weights from a public hash.
    """
    if name == "cnn2d":
        return resources.files("common").joinpath(PRIOR_FILE).read_bytes()
    model = NETWORKS[name](channels=Network.channels[-1])
    weights.fill(model)
    return dump(model)


def prior_sha256(name: str = "cnn2d") -> str:
    """Return the SHA-256 of what a network starts from, as 64 hex digits; a study names it."""
    return hashlib.sha256(prior_bytes(name)).hexdigest()


def initial(training: Training, *, channels: int, patch_voxels: int) -> bytes:
    """Return the model before the first step: features of the prior, a head of zeros.

    With one channel the prior's weights of the edge channel are left out. Raises ConfigError when the prior is not the one
    that the study names.
    """
    shipped = prior_bytes(training.model)
    if hashlib.sha256(shipped).hexdigest() != training.prior_sha256:
        raise ConfigError(
            "The prior of this installation is not the one that the study names.",
            action="Install the version of Motet that the study was written with, or correct prior_sha256.",
        )
    wide = build(training, channels=Network.channels[-1], patch_voxels=patch_voxels, outputs=1)
    load(wide, shipped)
    model = build(training, channels=channels, patch_voxels=patch_voxels)
    state = wide.state_dict()
    first = next(iter(state))
    state[first] = state[first][:, :channels]
    for name in HEAD:
        state[name] = torch.zeros_like(model.state_dict()[name])
    model.load_state_dict(state)
    return dump(model)


def trainable_names(model: nn.Module, training: Training) -> tuple[str, ...]:
    """Return the names of the parameters that the study trains at any step, in the order in which they travel.

    Those of one step: ask with the training of its phase (common/phases.py).
    """
    names = tuple(name for name, _ in model.named_parameters())
    return HEAD if training.recipe == "head" else names


@lru_cache(maxsize=KEPT)
def trainable_size(training: Training, *, channels: int, patch_voxels: int) -> int:
    """Return d, the number of trainable parameters: the length of every training contribution."""
    model = build(training, channels=channels, patch_voxels=patch_voxels)
    parameters = dict(model.named_parameters())
    return sum(parameters[name].numel() for name in trainable_names(model, training))


def dump(model: nn.Module) -> bytes:
    """Return the model as safetensors bytes; the same weights give the same bytes."""
    blob: bytes = write_tensors({name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()})
    return blob


def load(model: nn.Module, blob: bytes) -> None:
    """Put the weights in `blob` into `model`, all or nothing.

    | blob | raises |
    |---|---|
    | too long for this network, or not safetensors | BadEnvelope |
    | other names, shapes or dtypes, metadata, a value that is not finite | ProtocolError |
    """
    state = model.state_dict()
    if len(blob) > HEADER_BYTES_MOST + sum(tensor.numel() * tensor.element_size() for tensor in state.values()):
        raise BadEnvelope("A model is longer than its network.", action="Ask the coordinator which study it runs.")
    try:
        received = read_tensors(blob)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError):
        raise BadEnvelope("A model is not in the safetensors format.", action="Ask the coordinator for its version.") from None
    if received.keys() != state.keys():
        raise ProtocolError("A model has other layers than the study's.", action="Install the same version everywhere.")
    for name, tensor in state.items():
        if received[name].shape != tensor.shape or received[name].dtype != tensor.dtype:
            raise ProtocolError(f"The layer {name} has another shape or dtype.", action="Install the same version everywhere.")
        if not bool(torch.isfinite(received[name]).all()):
            raise ProtocolError(f"The layer {name} is not finite.", action="Ask the coordinator to lower the learning rate.")
    if write_tensors(received) != blob:
        raise ProtocolError("A model carries more than its weights.", action="Ask the coordinator which software it runs.")
    model.load_state_dict(received)


def frozen_digest(model: nn.Module, training: Training) -> str:
    """Return the SHA-256 of everything that the study does not train, as 64 hex digits."""
    trained = trainable_names(model, training)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in trained:
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode() + tensor.detach().numpy().tobytes())
    return digest.hexdigest()


def refuse_other_features(model: nn.Module, training: Training, *, channels: int, patch_voxels: int) -> None:
    """Raise ProtocolError unless the layers that the study does not train are the prior that the hospital approved."""
    if frozen_digest(model, training) != _prior_digest(training, channels=channels, patch_voxels=patch_voxels):
        raise ProtocolError("The frozen layers are not the study's prior.", action="Ask the coordinator which prior it uses.")


@lru_cache(maxsize=KEPT)
def _prior_digest(training: Training, *, channels: int, patch_voxels: int) -> str:
    expected = build(training, channels=channels, patch_voxels=patch_voxels)
    load(expected, initial(training, channels=channels, patch_voxels=patch_voxels))
    return frozen_digest(expected, training)


def flat(model: nn.Module, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the named parameters as one vector, float64, in the order of `names`."""
    parameters = dict(model.named_parameters())
    return np.concatenate([parameters[name].detach().numpy().astype(np.float64).ravel() for name in names])


def with_flat(model: nn.Module, names: tuple[str, ...], vector: NDArray[np.float64]) -> None:
    """Put `vector` into the named parameters, rounded to float32; raises ValueError on another length or a value not finite."""
    parameters = dict(model.named_parameters())
    if vector.shape != (sum(parameters[name].numel() for name in names),):
        raise ValueError("the vector does not fit these parameters")
    with np.errstate(over="ignore"):  # what leaves float32 is infinite, and refused
        rounded = vector.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError("a model's weight is not finite")
    start = 0
    with torch.no_grad():
        for name in names:
            size = math.prod(parameters[name].shape)
            parameters[name].copy_(torch.from_numpy(rounded[start : start + size].reshape(tuple(parameters[name].shape))))
            start += size
