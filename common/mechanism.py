"""What a release costs: nothing was hidden (Exact), or a share of Gaussian noise was added (GaussianShare)."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from common import canonical
from common.canonical import decimal_text

SHARE_BITS_MOST = 24
TAIL = 12  # standard deviations that the ring leaves room for


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """An exact statistic: epsilon is infinite, the hospital's policy decides, the ledger lists it."""

    statistic: str
    ring_bits: int

    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it."""
        return {"name": "none", "statistic": self.statistic, "ring_bits": self.ring_bits}


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianShare:
    """One Poisson-sampled DP-SGD step whose noise is shared by the hospitals of the round.

    Each hospital adds exact N_Z(0, 4**share_bits) on a grid of `grid_step`; h = hospitals - colluders shares are certain.
    Guarantee: the sum faced by the coordinator and `colluders` hospitals has noise of standard deviation
    noise_multiplier * sensitivity, where sensitivity covers clipping, numerical slack and the rounding of the sum.
    Source: Canonne, Kamath, Steinke 2020; Kairouz et al. 2021; reference training.md 1.3 and 6.4.
    """

    noise_multiplier: Decimal
    clip_norm: Decimal
    sampling_rate: Decimal
    hospitals: int
    colluders: int
    dimension: int
    patients_per_step_max: int
    share_bits: int
    ring_bits: int

    @property
    def honest(self) -> int:
        """Return h, the number of honest shares certain to be in the sum."""
        return self.hospitals - self.colluders

    @property
    def rounding_slack(self) -> float:
        """Return rho, the part of the sensitivity that rounding the sum may add."""
        return float(self.noise_multiplier) * math.sqrt(self.dimension) / (math.sqrt(self.honest) * 2.0**self.share_bits)

    @property
    def numerical_slack(self) -> float:
        """Return eta, what float32 gradients may add to the sensitivity (u = 3e-6 per patient)."""
        return max(1e-3, 2 * 3e-6 * self.patients_per_step_max)

    @property
    def sensitivity(self) -> float:
        """Return Delta, the L2 sensitivity of the rounded sum to one patient."""
        return float(self.clip_norm) * (1 + self.numerical_slack) / (1 - self.rounding_slack)

    @property
    def grid_step(self) -> float:
        """Return gamma, the size of one integer step."""
        return float(self.noise_multiplier) * self.sensitivity / (math.sqrt(self.honest) * 2.0**self.share_bits)

    @property
    def coordinate_limit(self) -> int:
        """Return L, the largest absolute integer that one hospital's clipped sum may hold before noise."""
        return math.ceil(self.patients_per_step_max * float(self.clip_norm) / self.grid_step)

    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it; decimals as strings, derived constants rounded up."""
        return {
            "name": "dp-sgd",
            "noise": "discrete-gaussian-share",
            "noise_multiplier": decimal_text(self.noise_multiplier),
            "clip_norm": decimal_text(self.clip_norm),
            "clip_scope": "per-patient-flat",
            "sampling": "poisson",
            "sampling_rate": decimal_text(self.sampling_rate),
            "steps": 1,
            "adjacency": "add-or-remove-one",
            "unit": "patient",
            "hospitals": self.hospitals,
            "colluders": self.colluders,
            "dimension": self.dimension,
            "patients_per_step_max": self.patients_per_step_max,
            "share_bits": self.share_bits,
            "ring_bits": self.ring_bits,
            "rng": "aes-256-ctr-os-key",
        }


Mechanism = Exact | GaussianShare


def from_entry(entry: dict[str, Any]) -> Mechanism:
    """Read a mechanism back from its ledger entry; raises ValueError on an unknown or malformed one."""
    try:
        if entry["name"] == "none":
            mechanism: Mechanism = Exact(statistic=str(entry["statistic"]), ring_bits=int(entry["ring_bits"]))
        elif entry["name"] == "dp-sgd":
            mechanism = GaussianShare(
                noise_multiplier=Decimal(entry["noise_multiplier"]),
                clip_norm=Decimal(entry["clip_norm"]),
                sampling_rate=Decimal(entry["sampling_rate"]),
                **{
                    key: int(entry[key])
                    for key in (
                        "hospitals",
                        "colluders",
                        "dimension",
                        "patients_per_step_max",
                        "share_bits",
                        "ring_bits",
                    )
                },
            )
        else:
            raise ValueError("unknown mechanism")
        if canonical.encode(mechanism.entry()) != canonical.encode(entry):  # in types too: True is not 1
            raise ValueError("malformed mechanism")
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError("malformed mechanism") from error
    return mechanism


def largest_share_bits(
    *, noise_multiplier: Decimal, hospitals: int, colluders: int, patients_per_step_max: int, ring_bits: int
) -> int:
    """Return the largest b <= 24 with which the sum cannot leave the ring.

    `patients_per_step_max` is per hospital. Raises ValueError when not even b = 8 fits.
    Source: reference training.md 6.4, (wrap).
    """
    honest, everyone = hospitals - colluders, patients_per_step_max * hospitals
    room = everyone * math.sqrt(honest) / float(noise_multiplier) + TAIL * math.sqrt(hospitals)
    bits = min(SHARE_BITS_MOST, math.floor(math.log2((2.0 ** (ring_bits - 1) - hospitals / 2) / room)))
    if bits < 8:
        raise ValueError("the ring is too small for this noise and this many patients")
    return bits
