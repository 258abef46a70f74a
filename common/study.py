"""The study: what a coordinator proposes, a hospital approves by its hash, and nobody changes afterwards."""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common import canonical
from common.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Positive = Annotated[Decimal, Field(gt=0, max_digits=24)]
Probability = Annotated[Decimal, Field(gt=0, le=1, max_digits=24)]
Number = Annotated[Decimal, Field(max_digits=24)]


class Part(BaseModel):
    """A frozen part of a study; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Privacy(Part):
    """The privacy parameters of training. None has a default: somebody has to choose them.

    Unit: patient. Adjacency: add or remove one. `noise_multiplier` is relative to the L2 sensitivity, as faced by the
    coordinator together with `colluders` hospitals.
    """

    noise_multiplier: Positive
    clip_norm: Positive
    sampling_rate: Probability
    delta: Annotated[Decimal, Field(gt=0, lt=1, max_digits=24)]
    colluders: Annotated[int, Field(ge=0, le=63)]
    rounds_void_allowed: Annotated[int, Field(ge=0, le=1000)]


class Variable(Part):
    """A column of the study: where it comes from, its unit and its declared bounds.

    An image variable's name is the name of a measured parameter (client/measure); a clinical variable's name is a column of
    the clinical table. Bounds are public constants of the dictionary; a value outside is missing, never clipped.
    """

    name: Name
    source: Literal["image", "clinical"]
    unit: Annotated[str, Field(max_length=32)]
    lower: Number
    upper: Number

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError("lower must be below upper")
        return self


class Regression(Part):
    """Ordinary least squares of `outcome` on `predictors`, with an intercept."""

    outcome: Name
    predictors: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]


class Statistics(Part):
    """Which variables enter the one wide Gram of the study, and what is read from it."""

    correlation: Annotated[tuple[Name, ...], Field(min_length=2, max_length=128)]
    regression: Regression


class Recipe(Part):
    """Preprocessing, the same at every hospital: resample, filter, window, crop."""

    spacing_mm: Positive
    denoise: Literal["none", "gaussian", "median"]
    denoise_mm: Number
    window_lower_hu: Number
    window_upper_hu: Number
    patch_voxels: Annotated[int, Field(ge=8, le=256)]
    edge_channel: bool


class Training(Part):
    """One CNN, one secure sum a step.

    The final model is the result unless its held-out AUC is more than `auc_drop_max` below the best that training passed.
    """

    model: Literal["cnn2d"]
    recipe: Literal["head", "full"]
    prior_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    label: Name
    positive_above: Number
    steps: Annotated[int, Field(ge=1, le=100_000)]
    learning_rate: Positive
    momentum: Annotated[Decimal, Field(ge=0, lt=1, max_digits=24)]
    views_per_patient_max: Annotated[int, Field(ge=1, le=64)]
    patients_per_step_max: Annotated[int, Field(ge=1, le=1_000_000)]
    patients_declared: Annotated[int, Field(ge=2, le=100_000_000)]
    held_out_fraction: Annotated[Decimal, Field(gt=0, lt=1, max_digits=24)]
    score_bins: Annotated[int, Field(ge=8, le=64)]
    auc_drop_max: Annotated[Decimal, Field(ge=0, le=1, max_digits=24)]


class Study(Part):
    """Everything that a study does. Its hash is what a hospital approves.

    `patience_s` is the study's one time-out: the deadline of every round, how long a lost link may take to come back, and when
    a relay that hears nothing more of the study gives up. `carrier` says what carries the envelopes: a gRPC stream that stays
    open, or one Flower message each.
    """

    name: Name
    title: Annotated[str, Field(max_length=200)]
    purpose: Name
    hospitals_min: Annotated[int, Field(ge=2, le=64)]
    patience_s: Annotated[int, Field(ge=1, le=86_400)]
    carrier: Literal["stream", "message"]
    variables: Annotated[tuple[Variable, ...], Field(min_length=2, max_length=128)]
    statistics: Statistics
    recipe: Recipe
    privacy: Privacy
    training: Training

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [variable.name for variable in self.variables]
        if len(set(names)) != len(names):
            raise ValueError("a variable is declared twice")
        regression = self.statistics.regression
        for name in (*self.statistics.correlation, regression.outcome, *regression.predictors, self.training.label):
            if name not in names:
                raise ValueError(f"{name} is not among the variables")
        if regression.outcome in regression.predictors:
            raise ValueError("the outcome is among the predictors")
        return self

    def variable(self, name: str) -> Variable:
        """Return the variable called `name`; raises KeyError."""
        return {variable.name: variable for variable in self.variables}[name]

    def columns(self) -> tuple[str, ...]:
        """Return the columns of the wide Gram, in the order in which they travel."""
        regression = self.statistics.regression
        wanted = {*self.statistics.correlation, regression.outcome, *regression.predictors}
        return tuple(variable.name for variable in self.variables if variable.name in wanted)

    def canonical_bytes(self) -> bytes:
        """Return the bytes that are hashed, signed and sent."""
        return canonical.encode(self.model_dump(mode="python"))

    def hash(self) -> str:
        """Return the SHA-256 of the canonical bytes, as 64 hex digits."""
        return canonical.digest(self.model_dump(mode="python"))


def parse(data: bytes) -> Study:
    """Read a study from its canonical bytes; raises ConfigError on anything else."""
    try:
        study = Study.model_validate(canonical.decode(data))
        if study.canonical_bytes() != data:
            raise ConfigError("The study's bytes are not canonical.", action="Propose it again.")
    except (ValidationError, ValueError) as error:
        raise ConfigError(f"The study is not valid: {explain(error)}.", action="Propose it again.") from None
    return study


def read_toml(path: Path) -> Study:
    """Read a study that a person wrote; raises ConfigError that names the key."""
    try:
        return Study.model_validate(tomllib.loads(path.read_text(), parse_float=Decimal))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", action="Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.", action="Mend that line.") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}.", action="Mend these keys.") from None


def explain(error: Exception) -> str:
    """Return what a validation error says, one clause per key, without the values."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'file'}: "
            + ("unknown key" if item["type"] == "extra_forbidden" else item["msg"])
            for item in error.errors(include_input=False, include_url=False)
        )
    return str(error)
