"""Puts a network's layers onto a tape for the time of a backward, and refuses by name what the engine does not know."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from client.engine.layers import CONVOLUTIONS, LAYERS, Forward
from client.engine.tape import Tape
from common.errors import ConfigError

__all__ = ["attached", "refuse_unknown"]


def refuse_unknown(network: nn.Module) -> None:
    """Raise ConfigError unless per-patient gradients of every trainable parameter are exact here.

    | layer | what happens |
    |---|---|
    | holds a trainable parameter and is not in LAYERS by its very class | refused by name: never frozen, never unclipped |
    | has buffers (BatchNorm and the like keep statistics over patients) | refused by name |
    | convolution padded with words or with anything but zeros | refused by name |
    | a norm without gain, a parameter shared by two layers | refused by name |
    | frozen, or without parameters | left as it is; independence.py sees whether it couples patients |
    """
    owners: dict[int, str] = {}
    for name, module in network.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        if next(module.buffers(recurse=False), None) is not None:
            raise _refused(name, module, "it keeps statistics over patients")
        if not own:
            continue
        if type(module) not in LAYERS:
            raise _refused(name, module, "no exact per-patient gradient is known for it")
        if type(module) in CONVOLUTIONS and (isinstance(module.padding, str) or module.padding_mode != "zeros"):
            raise _refused(name, module, "its padding is not a number of zeros")
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is None:
            raise _refused(name, module, "it has no gain")
        for parameter in own:
            if id(parameter) in owners:
                raise _refused(name, module, f"it shares a parameter with {owners[id(parameter)]}")
            owners[id(parameter)] = name


@contextmanager
def attached(network: nn.Module, tape: Tape) -> Iterator[None]:
    """Let every layer with trainable parameters write onto `tape`; ends with the network as it was."""
    changed = []
    try:
        for module in network.modules():
            if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
                vars(module)["forward"] = _forward(module, tape)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _forward(module: nn.Module, tape: Tape) -> Forward:
    apply: Callable[..., Tensor] = LAYERS[type(module)].apply

    def forward(inputs: Tensor) -> Tensor:
        return apply(inputs, module.weight, module.bias, module, tape)

    return forward


def _refused(name: str, module: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        f"The layer {name or 'network'} ({type(module).__name__}) cannot be trained privately: {why}.",
        action="Freeze it, or use convolutions, linear layers, GroupNorm and LayerNorm.",
    )
