"""Where the engine computes: on the GPUs whose clipped sums were tried here and are right, else on the processor; and why.

A GPU that fails is left out and tried again after AGAIN_AFTER steps without it; each time it fails, after twice as many.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from client.engine.batch import packed
from client.engine.clipped import clipped_sum
from common.networks.standardised import StandardisedConv2d

__all__ = ["AGAIN_AFTER", "FAILURES", "PROCESSOR", "Device", "among", "lost", "picked", "step_begins", "tried"]

log = logging.getLogger("motet.vault")

DIFFERENCE_MOST: Final = 3e-6  # relative; reference training.md 1.3, u: float32 with exact products, not TF32 or half precision
FAILURES: Final = (RuntimeError, AssertionError, NotImplementedError)  # torch's words for a device that does not work
PROCESSOR: Final = "cpu"
AGAIN_AFTER: Final = 100  # steps
_PATIENTS, _CLIP_NORM = 12, 0.3
_in_use: list["Device"] = []  # of this process, once they were picked
_out: dict[str, int] = {}  # of each GPU that is left out, how many steps are still computed without it
_waits: dict[str, int] = {}  # of each GPU that ever failed, how many steps it was to wait the last time
_one_at_a_time = threading.Lock()  # two that pick at once would list a device twice, and two threads train one network


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of torch's by name, and in words what was found."""

    name: str
    said: str


def picked() -> tuple[Device, ...]:
    """Return the devices on which this process trains: the same for its life, but for those that were lost or came back.

    Who asks while another tries them waits: no sum is computed during a trial, which sets the process's switches.
    """
    with _one_at_a_time:
        if not _in_use:
            names = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
            _in_use.extend(among(names))
            for name in {*names} - {one.name for one in _in_use}:
                _leave_out(name)
        return tuple(_in_use)


def step_begins() -> None:
    """Count a step, and try those left-out devices again that have waited long enough: who passes trains from now on.

    Never during a step: within one, patients keep their devices. What follows from a patient's presence is only when a device
    failed, as before.
    """
    with _one_at_a_time:
        for name in list(_out):
            _out[name] -= 1
            if _out[name] >= 0:
                continue
            found = tried(name)
            if found.name == PROCESSOR:
                _leave_out(name)
                log.warning("training-device-left-out", extra={"at": name, "steps": _out[name]})
                continue
            del _out[name]
            there = [one for one in _in_use if one.name != PROCESSOR]
            _in_use[:] = sorted([*there, found], key=lambda one: (len(one.name), one.name))
            log.warning("training-device-back", extra={"at": name})


def among(names: Sequence[str]) -> tuple[Device, ...]:
    """Return, in order, those of the named GPUs that pass the trial; where there are none the processor, and why."""
    found = [tried(name) for name in names]
    good = tuple(one for one in found if one.name != PROCESSOR)
    for name, one in zip(names, found, strict=True) if good else ():
        if one.name == PROCESSOR:
            log.warning("training-device-left-out", extra={"at": name, "steps": AGAIN_AFTER})
    nothing = Device(name=PROCESSOR, said="Training runs on the processor: torch sees no GPU.")
    return good or tuple(found[:1]) or (nothing,)


def lost(name: str, error: Exception) -> None:
    """Train without device `name` for now, and say so and for how long in the log; without any, on the processor."""
    why = type(error).__name__
    with _one_at_a_time:
        left = [one for one in _in_use if one.name != name]
        _in_use[:] = left or [Device(name=PROCESSOR, said=f"Training runs on the processor: {name} failed ({why}).")]
        steps = _leave_out(name)
    log.warning("training-device-lost", extra={"at": name, "why": why, "steps": steps})


def _leave_out(name: str) -> int:
    """Note that a device is out, and return for how many steps: twice as many as the last time."""
    _out[name] = _waits[name] = 2 * _waits[name] if name in _waits else AGAIN_AFTER
    return _out[name]


def tried(name: str) -> Device:
    """Return device `name` where a clipped sum of made-up patients is there what float64 says, else the processor.

    A device that is absent, full, or that computes in less than float32 gives the processor; nothing is raised.
    """
    try:
        found = _difference(name)
        called = f"{torch.cuda.get_device_name(name)} ({name})" if name.startswith("cuda") else name
    except FAILURES as error:
        return Device(name=PROCESSOR, said=f"Training runs on the processor: {name} failed a trial ({type(error).__name__}).")
    if not found <= DIFFERENCE_MOST:
        return Device(name=PROCESSOR, said=f"Training runs on the processor: sums by {name} are {found:.1e} off.")
    return Device(name=name, said=f"Training runs on {called}: its sums are right to {found:.1e}.")


def _difference(name: str) -> float:
    """Return how far the sum on a device in float32 is from the processor's in float64, relative to its length."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):  # no weights are drawn: torch's own generator is not touched
        network = nn.Sequential(
            *(nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Tanh()),
            *(StandardisedConv2d(16, 32, 3, padding=1, stride=2), nn.GroupNorm(4, 32), nn.Tanh()),
            *(nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 16, 1), nn.Flatten(0)),
        )
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    views = torch.randn(_PATIENTS, 2, 12, 12, generator=generator).numpy()
    bags = [(float(at % 2), (at,)) for at in range(_PATIENTS)]
    sums = []
    for device, kind in (("cpu", torch.float64), (name, torch.float32)):
        placed = network.to(device=device, dtype=kind)
        batches = (one.to(device).of(kind) for one in packed(views.astype(np.float32), bags=bags, rows_at_once=4))
        found = clipped_sum(placed, batches, loss=_loss, clip_norm=_CLIP_NORM)
        sums.append(torch.cat([part.cpu().ravel() for part in found.values()]))
    return float((sums[1] - sums[0]).norm() / sums[0].norm())


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
