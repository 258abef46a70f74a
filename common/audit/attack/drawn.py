"""What an installation drew for the auditor: shares of noise, opened sums, Poisson samples; and its bytes."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common import canonical
from common.errors import RecordDamaged
from common.mechanism import SampledStep, from_entry

Integers = NDArray[np.int64]

SMALL_BITS: Final = (0, 1, 2)  # widths at which every integer's frequency is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Draws through the code by which hospitals answer, of contributions that are zero unless said otherwise.

    shares (round, hospital, coordinate) int64: what each honest hospital's masked vector holds once its masks are taken away;
    sums (round, coordinate): the opened sums of the same vectors; at_limit (coordinate,): a share minus a contribution at the
    limit of what a sum may hold; small: shares of SMALL_BITS, (coordinate,); samples (step, patient) bool at `rate`.
    """

    mechanism: SampledStep
    shares: Integers
    sums: Integers
    at_limit: Integers
    small: Mapping[int, Integers]
    samples: NDArray[np.bool_]
    rate: Decimal

    def __post_init__(self) -> None:
        rounds, hospitals, dimension = self.shares.shape
        fits = self.sums.shape == (rounds, dimension) and self.at_limit.shape == (dimension,) and self.samples.ndim == 2
        claimed = (
            dimension == self.mechanism.dimension and hospitals == self.mechanism.honest and set(self.small) == set(SMALL_BITS)
        )
        if not (fits and claimed and 0 < self.rate < 1):
            raise ValueError("the draws do not belong together")

    def to_bytes(self) -> bytes:
        """Return the draws as an npz file."""
        out = io.BytesIO()
        arrays: dict[str, NDArray[Any]] = {f"small_{bits}": drawn for bits, drawn in self.small.items()}
        arrays |= {name: getattr(self, name) for name in ("shares", "sums", "at_limit", "samples")}
        arrays["mechanism"] = np.frombuffer(canonical.encode(self.mechanism.entry()), np.uint8)
        arrays["rate"] = np.frombuffer(str(self.rate).encode(), np.uint8)
        np.savez(out, allow_pickle=False, **arrays)
        return out.getvalue()


def parse(data: bytes) -> Drawn:
    """Read draws back; raises RecordDamaged on anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            mechanism = from_entry(canonical.decode(file["mechanism"].tobytes()))
            if not isinstance(mechanism, SampledStep):
                raise TypeError("another mechanism")
            integers = {name: _of(file[name], np.int64) for name in ("shares", "sums", "at_limit")}
            return Drawn(
                mechanism=mechanism,
                small={bits: _of(file[f"small_{bits}"], np.int64) for bits in SMALL_BITS},
                samples=_of(file["samples"], np.bool_),
                rate=Decimal(file["rate"].tobytes().decode()),
                **integers,
            )
    except (ValueError, KeyError, TypeError, OSError, EOFError, InvalidOperation, zipfile.BadZipFile):
        raise RecordDamaged("The draws cannot be read.", action="Install one version of Motet, and try again.") from None


def _of(array: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    if array.dtype != kind:
        raise ValueError("another dtype")
    return array
