"""What ComBat needs to know of all hospitals together: covariate effects, grand means and pooled deviations; nobody's batch.

A study whose ComBat is applied has three stages: the sums centred within hospitals are opened, their coefficients travel with
every later request that is made of the features, each hospital removes its own batch effect and answers. A harmonised value
is within the declared bounds widened by their width on both sides, else the hospital does not answer: so no coefficient
chooses patients.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common import canonical, wire
from common.analyses import Combat, Declared
from common.errors import BadQuery, ConfigError

FEATURES_LEAST: Final = 2
LARGEST: Final = 2.0**60


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmonisation:
    """`effects` (covariates, features) to protect, `grand_means` and `deviations` (features,), in the columns' own units."""

    features: tuple[str, ...]
    covariates: tuple[str, ...]
    n: int
    effects: NDArray[np.float64]
    grand_means: NDArray[np.float64]
    deviations: NDArray[np.float64]

    def bytes(self) -> bytes:
        """Return the canonical bytes that travel: hexadecimal floats, so that every hospital has the same bits."""
        return canonical.encode(
            {
                "features": self.features,
                "covariates": self.covariates,
                "n": self.n,
                "effects": [_hexadecimal(row) for row in self.effects.tolist()],
                "grand_means": _hexadecimal(self.grand_means.tolist()),
                "deviations": _hexadecimal(self.deviations.tolist()),
            }
        )


def parse(data: bytes, *, features: Sequence[str], covariates: Sequence[str]) -> Harmonisation:
    """Read the coefficients of a study's harmonisation.

    Raises BadQuery on anything else: other columns or shapes, bytes that are not canonical, a number that is not finite or
    above 2**60 in size, a deviation that is not above 2**-60.
    """
    try:
        plain: Any = canonical.decode(data)
        found = Harmonisation(
            features=tuple(plain["features"]),
            covariates=tuple(plain["covariates"]),
            n=plain["n"],
            effects=_floats([text for row in plain["effects"] for text in row]).reshape(len(covariates), len(features)),
            grand_means=_floats(plain["grand_means"]).reshape(len(features)),
            deviations=_floats(plain["deviations"]).reshape(len(features)),
        )
        if (found.features, found.covariates) != (tuple(features), tuple(covariates)) or found.bytes() != data:
            raise ValueError("other columns, or not canonical")
        if type(found.n) is not int or float(found.deviations.min()) <= 1 / LARGEST:
            raise ValueError("a deviation is not positive")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BadQuery(
            "The coefficients of a harmonisation cannot be read.", action="Check that both sides run the same version."
        ) from None
    return found


def check(declared: Sequence[Declared], *, noisy: bool, label: str, transformed: Collection[str]) -> None:
    """Refuse a ComBat that cannot be applied to the study's other statistics; raises ConfigError."""
    applied = [one for one in declared if isinstance(one, Combat) and one.apply]
    if not applied:
        return
    features = applied[0].features
    if len(applied) > 1:
        raise _wrong("two are to be applied", "Apply one.")
    if len(features) < FEATURES_LEAST:
        raise _wrong("features inform one another, and it has one", "Name more.")
    if noisy:
        raise _wrong("one patient would change every row of a hospital, which the Gram's noise does not hide", "Leave one out.")
    if label in features:
        raise _wrong(f"{label} is the label of training", "Leave it out of the features.")
    if both := sorted(set(features) & set(transformed)):
        raise _wrong(f"{', '.join(both)} would be transformed afterwards", "Leave their transforms out.")


def wide(lower: Decimal, upper: Decimal) -> tuple[Decimal, Decimal]:
    """Return the bounds of a harmonised column: the declared ones, widened by their width on both sides."""
    return lower - (upper - lower), upper + (upper - lower)


def pack(blob: bytes, *, coefficients: bytes) -> bytes:
    """Return what travels with a sum of harmonised columns: its own blob, and the coefficients."""
    return wire.pack((blob, coefficients))


def unpack(blob: bytes) -> tuple[bytes, bytes]:
    """Undo `pack`; raises BadEnvelope."""
    inner, coefficients = wire.unpack(blob, count=2)
    return inner, coefficients


def _hexadecimal(values: Sequence[float]) -> list[str]:
    return [value.hex() for value in values]


def _floats(texts: Sequence[str]) -> NDArray[np.float64]:
    values = [float.fromhex(text) for text in texts]
    if not all(math.isfinite(value) and abs(value) <= LARGEST for value in values):
        raise ValueError("a number is not finite, or too large")
    return np.array(values, dtype=np.float64)


def _wrong(why: str, action: str) -> ConfigError:
    return ConfigError(f"A harmonisation cannot be applied: {why}.", action=action)
