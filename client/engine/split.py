"""The clipped sum over all devices of a hospital: one replica of the network and one thread for each, float64 sums added.

A patient is always on the same device, whoever else was sampled: two devices need not give the same bits, and with chosen
weights one bit can move a gradient by as much as the clip norm (independence.py). So the pseudonym says which, and not how
much a device has to do; of n patients on two devices about sqrt(n) / 2 more than half are on one.

Threads in one process, not torch's DistributedDataParallel: that averages gradients of whole batches, which are not clipped,
and its processes talk over sockets, while the vault opens no network connection (CONTRIBUTING.md, decision 21).
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from torch import Tensor, nn

from client.engine import device
from client.engine.batch import Bag, Batch
from client.engine.clipped import Loss, clipped_sum, full_precision

__all__ = ["Packing", "clipped_sum_by", "number"]

Packing = Callable[[nn.Module, str, list[Bag]], Iterable[Batch]]  # a replica, its device and its patients, to micro-batches
Sums = dict[str, Tensor]
Found = Sums | Exception


def number(pseudonym: str, *, devices: int) -> int:
    """Return which of `devices` computes the patient: a function of the pseudonym and their number alone."""
    return int.from_bytes(hashlib.sha256(pseudonym.encode()).digest()[:8]) % devices


def clipped_sum_by(
    network: nn.Module, patients: Sequence[tuple[str, Bag]], *, packing: Packing, loss: Loss, clip_norm: float
) -> Sums:
    """Return clipped.clipped_sum of `patients`, pseudonym and bag each, on the processor, by all devices that were picked.

    `packing` is asked in the device's thread. What one patient adds is the same for every sample, as long as the devices are;
    the order of addition is theirs. A device that fails is left out for some steps (device.py): what the others had summed is
    thrown away, and all is computed anew without it, at the end on the processor. Raises what clipped_sum raises.
    """
    device.step_begins()
    while True:
        names = [one.name for one in device.picked()]
        shares: list[list[Bag]] = [[] for _ in names]
        for pseudonym, bag in patients:
            shares[number(pseudonym, devices=len(names))].append(bag)
        task = partial(_by, network=network, packing=packing, loss=loss, clip_norm=clip_norm)
        sums = []
        for name, found in zip(names, _all(task, names, shares), strict=True):
            if isinstance(found, Exception):
                device.lost(name, found)
            else:
                sums.append(found)
        if len(sums) == len(names):
            return {name: sum((one[name] for one in sums[1:]), start=sums[0][name]) for name in sums[0]}


def _all(task: Callable[[str, list[Bag]], Found], names: list[str], shares: list[list[Bag]]) -> list[Found]:
    if len(names) == 1:
        return [task(names[0], shares[0])]
    with full_precision(on=True), ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(task, names, shares))


def _by(name: str, bags: list[Bag], *, network: nn.Module, packing: Packing, loss: Loss, clip_norm: float) -> Found:
    """Return the sum of one device's patients, or what the device failed with; `network` itself stays on the processor."""
    if name == device.PROCESSOR:
        return clipped_sum(network, packing(network, name, bags), loss=loss, clip_norm=clip_norm)
    try:
        replica = copy.deepcopy(network).to(name)
        total = clipped_sum(replica, packing(replica, name, bags), loss=loss, clip_norm=clip_norm)
        return {parameter: found.cpu() for parameter, found in total.items()}
    except device.FAILURES as error:
        return error
