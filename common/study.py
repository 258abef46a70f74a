"""The study: what a coordinator proposes, a hospital approves by its hash, and nobody changes afterwards."""

import tomllib
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from common import analyses, canonical, codes, forms, formula, harmonisation, terms
from common.analyses import ANALYSES_MOST, Combat, Declared
from common.errors import BadQuery, ConfigError
from common.evaluation import Evaluation, HeadKind, check_head
from common.forms import Asked
from common.optimisation import Average, Finetune, Optimiser, Schedule, WarmUpCosine
from common.part import Level, Name, Number, Part, Positive, Text
from common.privacy import GramPrivacy, Privacy
from common.rhythm import LocalRhythm

FHIR = r"^((patient:(gender|birth-year)|(observation|condition):[^|\s]{1,128}\|[^|\s]{1,64}))?$"


UNSEEN_STEPS_MOST = 800  # rounds that a hospital may miss and still answer: fewer than client/session.py's ROUNDS_AHEAD_MOST


class Variable(Part):
    """A column of the study: where it comes from, its unit and its declared bounds.

    An image variable's name is the name of a measured parameter (client/measure); a clinical variable's name is a column of
    the clinical table. Bounds are public constants of the dictionary; a value outside is missing, never clipped.
    A variable with `levels` is a factor: its value is the position of a level, the first level is the reference, and its
    bounds are 0 and the last position. An image variable of the reference has its unit, and its bounds where it does not say
    others (common/codes.py). `transforms` are the transformations under which a formula may name it. `fhir` says where a FHIR
    bundle has a clinical variable (client/fhir.py): `patient:gender`, `observation:http://loinc.org|CODE`.
    """

    name: Name
    source: Literal["image", "clinical"]
    unit: Annotated[str, Field(max_length=32)]
    lower: Number
    upper: Number
    levels: Annotated[tuple[Level, ...], Field(max_length=32)] = ()
    transforms: Annotated[tuple[Literal["log", "log1p", "sqrt", "square"], ...], Field(max_length=4)] = ()
    fhir: Annotated[str, Field(pattern=FHIR)] = ""

    @model_validator(mode="before")
    @classmethod
    def _bounds_of_levels(cls, given: Any) -> Any:  # noqa: ANN401
        if isinstance(given, dict) and isinstance(given.get("levels"), list | tuple) and given["levels"]:
            return {"lower": Decimal(0), "upper": Decimal(len(given["levels"]) - 1), **given}
        known = codes.PARAMETERS.get(str(given.get("name"))) if isinstance(given, dict) else None
        if known is not None and given.get("source") == "image":
            return {"unit": known.unit, "lower": known.lower, "upper": known.upper, **given}
        return given

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.levels and (len(set(self.levels)) != len(self.levels) or len(self.levels) < 2):
            raise ValueError("levels must be at least two, each once")
        if self.lower >= self.upper:
            raise ValueError("lower must be below upper")
        known = codes.PARAMETERS.get(self.name) if self.source == "image" else None
        if known is not None and self.unit != known.unit:
            raise ValueError(f"the unit of {self.name} is {known.unit}")
        if known is not None and (self.name in codes.FACTORS) != bool(self.levels):
            what = "a number, without levels" if self.levels else "a factor: declare its levels"
            raise ValueError(f"{self.name} is {what}")
        if self.levels and (self.transforms or self.lower != 0 or self.upper != len(self.levels) - 1):
            raise ValueError("a variable with levels has no transforms, and the bounds 0 and the last position")
        if self.fhir and (self.source != "clinical" or (self.fhir.startswith("condition:") and len(self.levels) != 2)):
            raise ValueError("fhir is for clinical variables, and a condition has two levels: absent, present")
        ends = float(self.lower), float(self.upper)
        for transform in self.transforms:
            try:
                terms.bounds(terms.column(terms.Piece(variable=self.name, transform=transform)), of=lambda _: ends)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self


class Regression(Part):
    """Ordinary least squares of `outcome` on `predictors`, with an intercept."""

    outcome: Name
    predictors: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]


class Grouping(Part):
    """A comparison of the means of `outcome` between the levels of `factor`, each group with its own variance."""

    outcome: Name
    factor: Name


class Ancova(Part):
    """A comparison of `outcome` between the levels of `factor`, adjusted for numeric `covariates`, with their slopes."""

    outcome: Name
    factor: Name
    covariates: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]

    @property
    def formula(self) -> str:
        """Return the model with common slopes."""
        return f"{self.outcome} ~ {' + '.join((self.factor, *self.covariates))}"

    @property
    def formula_of_slopes(self) -> str:
        """Return the model in which each group has its own slopes."""
        return f"{self.outcome} ~ {self.factor} * ({' + '.join(self.covariates)})"


class Statistics(Part):
    """Which variables enter the one wide Gram of the study, and what is read from it.

    `models` are formulas (common/formula.py), `descriptive` names the variables of Table 1. All of it is read from the one
    Gram: a wish here costs columns, never another release. `analyses` go beyond the Gram: each is asked for in secure sums
    of its own (common/analyses.py), exact ones. Without `privacy` the Gram is exact; with it, it leaves once, with noise.
    `complete_cases` says which patients enter a sum: those with a value in every column of that "analysis", or of the whole
    "study", where no two sums can then differ by a few patients and be refused for it.
    """

    correlation: Annotated[tuple[Name, ...], Field(min_length=2, max_length=128)]
    regression: Regression
    models: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    groups: Annotated[tuple[Grouping, ...], Field(max_length=32)] = ()
    ancova: Annotated[tuple[Ancova, ...], Field(max_length=32)] = ()
    descriptive: Annotated[tuple[Name, ...], Field(max_length=128)] = ()
    analyses: Annotated[tuple[Declared, ...], Field(max_length=ANALYSES_MOST)] = ()
    privacy: GramPrivacy | None = None
    complete_cases: Literal["analysis", "study"] = "analysis"


class Filters(Part):
    """What a recipe does beyond denoising: the correction of an MR's bias field, and by what edges become a channel.

    Without this section there is no correction, and edges are the magnitude of the gradient.
    """

    bias_field: Literal["none", "n4"]
    edges: Literal["gradient", "sobel", "canny"]


class Points(Part):
    """How a lesion that nobody drew is found from a point that somebody marked (client/imaging/segment.py).

    Searched as far as `reach_mm`; set aside where the least Dice with the two other methods is below `agreement_min`.
    """

    method: Literal["threshold", "region-growing", "watershed"]
    reach_mm: Positive
    agreement_min: Annotated[Decimal, Field(gt=0, le=1, max_digits=24)]


class Recipe(Part):
    """Preprocessing, the same at every hospital: resample, filter, window, crop.

    Without `points` only lesions that were drawn (DICOM SEG, RT Structure Set) are measured.
    """

    spacing_mm: Positive
    denoise: Literal["none", "gaussian", "median", "curvature-anisotropic"]
    denoise_mm: Number
    window_lower_hu: Number
    window_upper_hu: Number
    patch_voxels: Annotated[int, Field(ge=8, le=256)]
    edge_channel: bool
    filters: Filters | None = None
    points: Points | None = None


class Training(Part):
    """One CNN, one secure sum a step; with `local`, a sum after several steps at each hospital: then `steps` counts sums.

    Recipes: `head` on the prior's frozen features; `full` network; `finetune`: head first, then the whole (common/phases.py).

    A bag holds a patient's views, and of each view its first `augmentations` mirrored or turned copies (client/augment.py).
    The final model is the result unless its held-out AUC is more than `auc_drop_max` below the best that training passed.
    `head` says what is learned of `label` (common/networks/heads.py): binary, whether it is above `positive_above`; classes,
    its level; ordinal, likewise, with levels or between rising `thresholds`; regression, its value.
    """

    model: Literal["cnn2d", "resnet18"]
    recipe: Literal["head", "finetune", "full"]
    prior_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    label: Name
    head: HeadKind = "binary"
    positive_above: Number | None = None
    classes: Annotated[tuple[Level, ...], Field(max_length=16)] = ()
    thresholds: Annotated[tuple[Number, ...], Field(max_length=15)] = ()
    steps: Annotated[int, Field(ge=1, le=100_000)]
    learning_rate: Positive
    optimiser: Optimiser
    schedule: Schedule
    average: Average
    views_per_patient_max: Annotated[int, Field(ge=1, le=64)]
    augmentations: Annotated[int, Field(ge=0, le=7)]
    patients_per_step_max: Annotated[int, Field(ge=1, le=1_000_000)]
    patients_declared: Annotated[int, Field(ge=2, le=100_000_000)]
    held_out_fraction: Annotated[Decimal, Field(gt=0, lt=1, max_digits=24)]
    score_bins: Annotated[int, Field(ge=8, le=64)]
    auc_drop_max: Annotated[Decimal, Field(ge=0, le=1, max_digits=24)]
    finetune: Finetune | None = None
    local: LocalRhythm | None = None

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if (self.recipe == "finetune") != (self.finetune is not None):
            raise ValueError("the recipe finetune needs [training.finetune], and no other recipe has it")
        steps = self.steps - (self.finetune.head_steps if self.finetune else 0)
        if steps < 1:
            raise ValueError("finetune.head_steps must be below steps")
        if isinstance(self.schedule, WarmUpCosine) and self.schedule.warm_up_steps >= steps:
            raise ValueError("the schedule's warm_up_steps must be below steps")
        return self

    @model_validator(mode="after")
    def _head_is_whole(self) -> Self:
        check_head(self.head, positive_above=self.positive_above, classes=self.classes, thresholds=self.thresholds)
        return self


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
    evaluation: Evaluation = Evaluation()

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
        if self.training.local is not None:
            self.training.local.check(most=self.privacy.sampling_rate)
        self._check_analyses()
        return self

    def _check_analyses(self) -> None:
        wanted, declared = self.statistics, {variable.name: variable for variable in self.variables}
        numbers = {*wanted.correlation, wanted.regression.outcome, *wanted.regression.predictors}
        numbers |= {one.outcome for one in wanted.groups} | {one.outcome for one in wanted.ancova}
        numbers |= {name for one in wanted.ancova for name in one.covariates}
        factors = {one.factor for one in wanted.groups} | {one.factor for one in wanted.ancova}
        for name in sorted(numbers | factors | set(wanted.descriptive)):
            if name not in declared:
                raise ValueError(f"{name} is not among the variables")
            if name in numbers and declared[name].levels:
                raise ValueError(f"{name} has levels; name it in a formula, or as a factor")
            if name in factors and not declared[name].levels:
                raise ValueError(f"{name} has no levels and cannot be a factor")
        self._check_learned(declared)
        try:
            count = len(self.design())
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if count > terms.COLUMNS_MOST:
            raise ValueError(f"the statistics need {count} columns; at most {terms.COLUMNS_MOST} fit one Gram")
        self._check_declared()

    def _check_learned(self, declared: dict[str, Variable]) -> None:
        training, wanted = self.training, self.evaluation
        by_level = training.head in {"classes", "ordinal"} and not training.thresholds
        if declared[training.label].levels != (training.classes if by_level else ()):
            raise ValueError(f"the label of training has other levels than the head {training.head} names")
        for one in wanted.subgroups:
            if one.variable not in declared:
                raise ValueError(f"{one.variable} is not among the variables")
            if bool(one.cuts) == bool(declared[one.variable].levels):
                raise ValueError(f"subgroups of {one.variable}: a variable with levels has no cuts, one without has some")
        if wanted.unseen and training.steps > UNSEEN_STEPS_MOST:
            raise ValueError(f"with unseen hospitals there are at most {UNSEEN_STEPS_MOST} steps")
        if (wanted.privacy is not None or training.head != "binary") and training.auc_drop_max != 1:
            raise ValueError("only exact scores of a binary head can bring an earlier model back: auc_drop_max must be 1")

    def _check_declared(self) -> None:
        wanted = self.statistics
        try:
            harmonisation.check(
                wanted.analyses,
                noisy=wanted.privacy is not None,
                label=self.training.label,
                transformed={one.name for one in self.variables if one.transforms},
            )
        except ConfigError as error:
            raise ValueError(str(error)) from None
        dictionary = self.dictionary()
        for position, one in enumerate(wanted.analyses):
            try:
                forms.bind(one, dictionary=dictionary)
            except (ConfigError, BadQuery) as error:
                raise ValueError(f"analysis {position + 1} ({one.kind}): {error}") from None

    @property
    def harmonised(self) -> int | None:
        """Return the position of the ComBat that is applied; None where the study has none."""
        return next((at for at, one in enumerate(self.statistics.analyses) if isinstance(one, Combat) and one.apply), None)

    def harmonisation_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Return which harmonisation columns of the variables `names` went through, as records name it; empty for none."""
        one = None if self.harmonised is None else self.statistics.analyses[self.harmonised]
        if not isinstance(one, Combat) or not set(names) & set(one.features):
            return {}
        return {"harmonised": {"features": sorted(one.features), "covariates": sorted(one.covariates)}}

    def harmonises(self, *, task: str, index: int) -> bool:
        """Say whether a sum is made of harmonised features: its blob then holds the coefficients too. For both sides."""
        if self.harmonised is None or task not in {"gram", "query"}:
            return False
        if task == "gram":
            return bool(self.harmonisation_of(_behind(self.design())))
        position, _ = analyses.place(index)
        return position != self.harmonised and bool(self.harmonisation_of(self.asked(position).variables))

    def dictionary(self) -> dict[str, Variable]:
        """Return the variables by name as analyses have them: harmonised ones with their wide bounds."""
        held = {}
        for one in self.variables:
            wide = dict(zip(("lower", "upper"), harmonisation.wide(one.lower, one.upper), strict=True))
            held[one.name] = one.model_copy(update=wide if self.harmonisation_of([one.name]) else {})
        return held

    def variable(self, name: str) -> Variable:
        """Return the variable called `name`, or a column of the Gram described as one; raises KeyError.

        The transforms that the dictionary allows are left out: they change no value of a column.
        """
        found = {variable.name: variable for variable in self.variables}
        if name in found:
            return found[name].model_copy(update={"transforms": ()})
        column = {column.name: column for column in self.design()}[name]
        lower, upper = self.bounds(column)
        first = found[column.pieces[0].variable]
        return Variable.model_construct(
            name=name, source=first.source, unit="1", lower=Decimal(repr(lower)), upper=Decimal(repr(upper))
        )

    def question(self, name: str) -> dict[str, Any]:
        """Return what a variable or column is to a record of sums: name, levels and bounds; raises KeyError.

        Texts that change no value (unit, source) are left out: a study that differs in them asks the same again.
        """
        return self.variable(name).model_dump(mode="python", include={"name", "levels", "lower", "upper"})

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns of the wide Gram, in the order in which they travel."""
        return tuple(column.name for column in self.design())

    def model(self, text: str) -> terms.Model:
        """Return a formula bound to this study's dictionary; raises ConfigError."""
        return terms.expand(formula.parse(text), dictionary={variable.name: variable for variable in self.variables})

    def design(self) -> tuple[terms.Column, ...]:
        """Return the columns of the wide Gram: plain variables in the dictionary's order, then what the analyses add.

        Known from the study alone. Raises ConfigError when a formula does not fit the dictionary.
        """
        wanted, regression = self.statistics, self.statistics.regression
        named = {*wanted.correlation, regression.outcome, *regression.predictors, *wanted.descriptive}
        named |= {one.outcome for one in wanted.groups}
        plain = [terms.column(terms.Piece(variable=v.name)) for v in self.variables if v.name in named and not v.levels]
        added: list[terms.Column] = []
        for text in (*wanted.models, *(one.formula_of_slopes for one in wanted.ancova)):
            added += self.model(text).columns
        for variable in self.variables:
            if variable.name in wanted.descriptive and variable.levels:
                added += terms.indicators(variable.name, levels=variable.levels)
        for one in wanted.groups:
            for indicator in terms.indicators(one.factor, levels=self.variable(one.factor).levels):
                added += [indicator, terms.column(terms.Piece(variable=one.outcome), *indicator.pieces)]
        return tuple(dict.fromkeys((*plain, *added)))

    def asked(self, position: int) -> Asked:
        """Return what the analysis at `position` may ask; raises IndexError.

        A ComBat that is applied is made over the patients of the Gram: those with a value in every variable behind it.
        """
        bound = forms.bind(self.statistics.analyses[position], dictionary=self.dictionary())
        if position != self.harmonised:
            return bound
        others = sorted(_behind(self.design()) - bound.variables)
        return replace(bound, responses=(*bound.responses, *(terms.column(terms.Piece(variable=name)) for name in others)))

    def together(self) -> tuple[terms.Column, ...]:
        """Return the columns in which every patient of any sum has a value; none where each analysis has its own patients."""
        if self.statistics.complete_cases == "analysis":
            return ()
        asked = (column for at in range(len(self.statistics.analyses)) for column in self.asked(at).columns)
        return tuple(dict.fromkeys((*self.design(), *asked)))

    def bounds(self, column: terms.Column) -> tuple[float, float]:
        """Return the least and greatest value of a column of the Gram, from the declared bounds; raises ConfigError."""
        return terms.bounds(column, of=self.declared_bounds)

    def declared_bounds(self, name: str) -> tuple[float, float]:
        """Return the declared bounds of the variable `name` as float64, wide where it is harmonised; raises KeyError."""
        variable = self.variable(name)
        bounds = variable.lower, variable.upper
        lower, upper = harmonisation.wide(*bounds) if self.harmonisation_of([name]) else bounds
        return float(lower), float(upper)

    def canonical_bytes(self) -> bytes:
        """Return the bytes that are hashed, signed and sent."""
        return canonical.encode(self.model_dump(mode="python"))

    def hash(self) -> str:
        """Return the SHA-256 of the canonical bytes, as 64 hex digits."""
        return canonical.digest(self.model_dump(mode="python"))


def _behind(columns: Iterable[terms.Column]) -> set[str]:
    return {piece.variable for column in columns for piece in column.pieces}


def parse(data: bytes) -> Study:
    """Read a study from its canonical bytes; raises ConfigError on anything else."""
    try:
        study = Study.model_validate(canonical.decode(data))
        if study.canonical_bytes() != data:
            raise ConfigError("The study's bytes are not canonical.", action="Propose it again.")
    except ValidationError as error:
        raise ConfigError(f"The study is not valid: {explain(error)}.", action="Propose it again.") from None
    except ValueError as error:
        action = "Propose it again, and give the .study.json that this writes, not its .toml."
        raise ConfigError(f"The study is not valid canonical JSON: {error}.", action=action) from None
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
            + ("unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ").rstrip("."))
            for item in error.errors(include_input=False, include_url=False)
        )
    return str(error)
