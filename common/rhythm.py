"""The other rhythm: several private steps at each hospital between two secure sums. For links on which a sum is slow."""

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from common.mechanism import LOCAL_STEPS_MOST
from common.part import Name, Part, Positive, Probability

RING_BITS: Final = 32


class OwnRate(Part):
    """A hospital whose patients are drawn less often than `privacy.sampling_rate` says, because it has more of them."""

    hospital: Name
    sampling_rate: Probability


class LocalRhythm(Part):
    """Each round is `local_steps` steps of DP-SGD at every hospital on its own patients, then one sum of the models' changes.

    Every local step has the whole noise of `privacy`: no hospital leans on another's share, and a change is private before it
    is masked. `learning_rate` is that of the local steps, plain gradient descent; the study's optimiser is applied to the mean
    change (momentum 0 and rate 1: FedAvg; Adam: FedAdam). A change longer than `update_norm` is shortened to it. A hospital
    without an own rate has `privacy.sampling_rate`. Source: McMahan et al. 2017; Reddi et al. 2021, Algorithm 2.
    """

    local_steps: Annotated[int, Field(ge=2, le=LOCAL_STEPS_MOST)]
    learning_rate: Positive
    update_norm: Annotated[Decimal, Field(ge=Decimal("1e-6"), le=1_000_000, max_digits=24)]
    own_rates: Annotated[tuple[OwnRate, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({one.hospital for one in self.own_rates}) != len(self.own_rates):
            raise ValueError("a hospital has two own rates")
        return self

    def check(self, *, most: Decimal) -> None:
        """Raise ValueError where a hospital draws more often than `most`, the study's sampling_rate, announced for all."""
        if any(one.sampling_rate > most for one in self.own_rates):
            raise ValueError("an own rate is above the sampling_rate of privacy, which is the largest")

    def rate(self, hospital: str, *, most: Decimal) -> Decimal:
        """Return the sampling rate of one hospital: its own where it has one, else `most`, the study's."""
        return next((one.sampling_rate for one in self.own_rates if one.hospital == hospital), most)


def scale_bits(update_norm: Decimal, *, hospitals: int) -> int:
    """Return the finest power of two by which changes of at most `update_norm` are multiplied: none is cut off, no sum wraps.

    Of the bits that a hospital's integers may use, one is left free for rounding. Source: reference secure-sum.md, section 7.
    """
    ratio = Fraction(2) ** (RING_BITS - 2 - (hospitals - 1).bit_length()) / Fraction(update_norm)
    found = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    while Fraction(2) ** found > ratio:
        found -= 1
    return found
