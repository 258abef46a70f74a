"""What a release costs: nothing was hidden (Exact), or Gaussian noise was added, in shares or whole (GaussianShare)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from typing_extensions import override

from common import canonical
from common.canonical import decimal_text

SHARE_BITS_MOST = 24
LOCAL_STEPS_MOST = 1000
SCALE_BITS_MOST = 64  # of the encoding of a change (common/crypto/encoding.py)
TAIL = 12  # standard deviations that the ring leaves room for
ROUNDING_SLACK_MOST = 0.01  # of the sensitivity: hospitals refuse more, a coordinator plans no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """An exact statistic: epsilon is infinite, the hospital's policy decides, the ledger lists it."""

    statistic: str
    ring_bits: int

    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it."""
        return {"name": "none", "statistic": self.statistic, "ring_bits": self.ring_bits}


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianShare(ABC):
    """A sum with a share of Gaussian noise from every hospital of the round: what its kinds have in common.

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
    share_bits: int
    ring_bits: int

    @property
    @abstractmethod
    def clipped_norm(self) -> float:
        """Return the largest L2 norm of what one patient adds to the sum, before any slack."""

    @property
    @abstractmethod
    def numerical_slack(self) -> float:
        """Return eta, what floating point may add to the sensitivity, as a part of it."""

    @property
    @abstractmethod
    def patients_most(self) -> int:
        """Return how many patients one hospital's sum holds at most."""

    @abstractmethod
    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it; decimals as strings."""

    @property
    def honest(self) -> int:
        """Return h, the number of honest shares certain to be in the sum."""
        return self.hospitals - self.colluders

    @property
    def shares(self) -> int:
        """Return how many hospitals' shares together are the promised noise: those that are certain to be in the sum."""
        return self.honest

    @property
    def compositions(self) -> int:
        """Return how many sampled Gaussians one release is charged as."""
        return 1

    @property
    def rounding_slack(self) -> float:
        """Return rho, the part of the sensitivity that rounding the sum may add."""
        return float(self.noise_multiplier) * math.sqrt(self.dimension) / (math.sqrt(self.shares) * 2.0**self.share_bits)

    @property
    def sensitivity(self) -> float:
        """Return Delta, the L2 sensitivity of the rounded sum to one patient."""
        return self.clipped_norm * (1 + self.numerical_slack) / (1 - self.rounding_slack)

    @property
    def grid_step(self) -> float:
        """Return gamma, the size of one integer step."""
        return float(self.noise_multiplier) * self.sensitivity / (math.sqrt(self.shares) * 2.0**self.share_bits)

    @property
    def coordinate_limit(self) -> int:
        """Return L, the largest absolute integer that one hospital's clipped sum may hold before noise."""
        return math.ceil(self.patients_most * self.clipped_norm / self.grid_step)

    @property
    def noise_deviation(self) -> float:
        """Return the standard deviation of each coordinate of an opened sum: all hospitals' shares, honest or not."""
        return self.grid_step * 2.0**self.share_bits * math.sqrt(self.hospitals)

    def _noise(self) -> dict[str, Any]:
        return {
            "noise": "discrete-gaussian-share",
            "noise_multiplier": decimal_text(self.noise_multiplier),
            "clip_norm": decimal_text(self.clip_norm),
            "steps": self.compositions,
            "adjacency": "add-or-remove-one",
            "unit": "patient",
            "hospitals": self.hospitals,
            "colluders": self.colluders,
            "dimension": self.dimension,
            "share_bits": self.share_bits,
            "ring_bits": self.ring_bits,
            "rng": "aes-256-ctr-os-key",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledStep(GaussianShare):
    """One Poisson-sampled DP-SGD step: each patient's gradient is clipped to `clip_norm`."""

    patients_per_step_max: int

    @property
    @override
    def clipped_norm(self) -> float:
        """Return the clipping norm itself."""
        return float(self.clip_norm)

    @property
    @override
    def numerical_slack(self) -> float:
        """Return eta, what float32 gradients may add to the sensitivity (u = 3e-6 per patient)."""
        return max(1e-3, 2 * 3e-6 * self.patients_per_step_max)

    @property
    @override
    def patients_most(self) -> int:
        """Return the bound on the patients of a step."""
        return self.patients_per_step_max

    @override
    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it; decimals as strings."""
        return {
            "name": "dp-sgd",
            **self._noise(),
            "clip_scope": "per-patient-flat",
            "sampling": "poisson",
            "sampling_rate": decimal_text(self.sampling_rate),
            "patients_per_step_max": self.patients_per_step_max,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSteps(SampledStep):
    """Several Poisson-sampled DP-SGD steps at one hospital on its own patients, each with the whole noise; one release.

    Charged as `local_steps` steps with that hospital's own sampling rate; whoever sees the change of its model, the coordinator
    with all others too, faces noise of noise_multiplier * sensitivity in every step. `dimension` is that of the model; the ring
    and `scale_bits` are those of the released change, which is private before it is encoded (common/crypto/encoding.py).
    """

    local_steps: int
    scale_bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.local_steps <= LOCAL_STEPS_MOST or abs(self.scale_bits) > SCALE_BITS_MOST:
            raise ValueError("local steps or scale out of range")

    @property
    @override
    def shares(self) -> int:
        """Return 1: the hospital's own noise is the whole."""
        return 1

    @property
    @override
    def compositions(self) -> int:
        """Return the number of local steps."""
        return self.local_steps

    @override
    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it; decimals as strings."""
        return {
            **SampledStep.entry(self),
            "name": "dp-sgd-local",
            "noise": "discrete-gaussian-whole",
            "scale_bits": self.scale_bits,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AtOnce(GaussianShare):
    """A sum that is released once, without sampling, of at most `patients_max` patients of a hospital."""

    sampling_rate: Decimal = field(default=Decimal(1), init=False)
    patients_max: int

    @property
    @override
    def patients_most(self) -> int:
        """Return the bound on a hospital's patients in the sum."""
        return self.patients_max

    def _whole(self) -> dict[str, Any]:
        return {"name": "gaussian", **self._noise(), "sampling": "none", "patients_max": self.patients_max}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyGram(AtOnce):
    """The wide Gram released once, without sampling: each patient's row v is clipped to `clip_norm`, v v' is packed.

    Source: the packed v v' has the L2 norm |v|**2 (common/noisy_moments.py); analyze-Gauss of Dwork et al. 2014.
    """

    @property
    @override
    def clipped_norm(self) -> float:
        """Return clip_norm**2, the largest norm of one patient's packed v v'."""
        return float(self.clip_norm) ** 2

    @property
    @override
    def numerical_slack(self) -> float:
        """Return eta: the Gram is exact, so only reading it as float64 rounds.

        The sum of n patients has a norm of at most n * clip_norm**2. Each entry is rounded three times (as float64, times
        sqrt(2), in units of the grid), each time by 2**-53 of itself, in either of two neighbours: 6 * 2**-53 * n < 2**-50 * n,
        taken twice. The floor covers the roundings of the constants themselves.
        """
        return 1e-9 + self.patients_max * 2.0**-49

    @override
    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it; decimals as strings."""
        return {**self._whole(), "statistic": "gram", "clip_scope": "per-patient-outer-product"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyScores(AtOnce):
    """The tables of an evaluation released once, without sampling: one patient adds at most sqrt(entries) in L2 norm.

    Of counts, `entries` is how many a patient is in. What a patient adds is a multiple of 2**-30 (common/scores.py), so that
    sums are exact until they are divided by the grid.
    """

    clip_norm: Decimal = field(default=Decimal(1), init=False)
    entries: int

    @property
    @override
    def clipped_norm(self) -> float:
        """Return sqrt(entries), the largest norm of what one patient adds."""
        return math.sqrt(self.entries)

    @property
    @override
    def numerical_slack(self) -> float:
        """Return eta, what dividing by the grid may add: each number is rounded once, by 2**-53 of at most patients_max."""
        return 1e-9 + self.patients_max * 2.0**-51

    @override
    def entry(self) -> dict[str, Any]:
        """Return the mechanism as a ledger entry spells it; decimals as strings."""
        return {**self._whole(), "statistic": "scores", "clip_scope": "per-patient-entry", "entries": self.entries}


Mechanism = Exact | GaussianShare

_LOCAL = (("local_steps", "steps"), ("scale_bits", "scale_bits"))
_WHOLE = ("hospitals", "colluders", "dimension", "share_bits", "ring_bits")


def from_entry(entry: dict[str, Any]) -> Mechanism:
    """Read a mechanism back from its ledger entry; raises ValueError on an unknown or malformed one."""
    try:
        if entry["name"] == "none":
            mechanism: Mechanism = Exact(statistic=str(entry["statistic"]), ring_bits=int(entry["ring_bits"]))
        elif entry["name"] in {"dp-sgd", "dp-sgd-local"}:
            local = {key: int(entry[name]) for key, name in _LOCAL} if "scale_bits" in entry else {}
            mechanism = (LocalSteps if local else SampledStep)(
                noise_multiplier=Decimal(entry["noise_multiplier"]),
                clip_norm=Decimal(entry["clip_norm"]),
                sampling_rate=Decimal(entry["sampling_rate"]),
                patients_per_step_max=int(entry["patients_per_step_max"]),
                **{key: int(entry[key]) for key in _WHOLE},
                **local,
            )
        elif entry["name"] == "gaussian" and entry["statistic"] == "scores":
            mechanism = NoisyScores(
                noise_multiplier=Decimal(entry["noise_multiplier"]),
                entries=int(entry["entries"]),
                patients_max=int(entry["patients_max"]),
                **{key: int(entry[key]) for key in _WHOLE},
            )
        elif entry["name"] == "gaussian":
            mechanism = NoisyGram(
                noise_multiplier=Decimal(entry["noise_multiplier"]),
                clip_norm=Decimal(entry["clip_norm"]),
                patients_max=int(entry["patients_max"]),
                **{key: int(entry[key]) for key in _WHOLE},
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

    `patients_per_step_max`, of a Gram patients_max, is per hospital. Raises ValueError when not even b = 8 fits.
    Source: reference training.md 6.4, (wrap).
    """
    honest, everyone = hospitals - colluders, patients_per_step_max * hospitals
    room = everyone * math.sqrt(honest) / float(noise_multiplier) + TAIL * math.sqrt(hospitals)
    bits = min(SHARE_BITS_MOST, math.floor(math.log2((2.0 ** (ring_bits - 1) - hospitals / 2) / room)))
    if bits < 8:
        raise ValueError("the ring is too small for this noise and this many patients")
    return bits
