"""The study: what a coordinator proposes, a hospital approves by its hash, and nobody changes afterwards."""

import math
import tomllib
from collections.abc import Container, Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from common import analyses, canonical, forms, formula, harmonisation, terms
from common.analyses import Combat
from common.errors import BadQuery, ConfigError
from common.evaluation import Evaluation
from common.forms import Asked
from common.part import Name, Part
from common.privacy import Privacy
from common.recipe import Recipe
from common.training import Training
from common.variable import Variable
from common.wanted import Statistics

BAG_VOXELS_MOST = 1 << 24  # of a patient's views with their copies, trained at once: 64 cubes of 64, some 4 GiB unfolded
VOLUMES = frozenset({"cnn3d"})  # the networks that take volumes; all others take slices
UNSEEN_STEPS_MOST = 800  # rounds that a hospital may miss and still answer: fewer than client/session.py's ROUNDS_AHEAD_MOST


class Study(Part):
    """Everything that a study does. Its hash is what a hospital approves.

    `patience_s` is the study's one time-out: the deadline of every round, how long a lost link may take to come back, and when
    a relay that hears nothing more of the study gives up. `carrier` says what carries the envelopes: a gRPC stream that stays
    open, or one Flower message each.
    """

    name: Name
    title: Annotated[str, Field(max_length=200, pattern=r"^\P{C}*$")]
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
        at = [("statistics.correlation", self.statistics.correlation), ("statistics.regression.outcome", (regression.outcome,))]
        at += [("statistics.regression.predictors", regression.predictors), ("training.label", (self.training.label,))]
        _check_names(at, declared=names)
        if regression.outcome in regression.predictors:
            raise ValueError("the outcome is among the predictors")
        if (self.training.model in VOLUMES) != (self.recipe.patch == "volume"):
            wanted = "volume" if self.training.model in VOLUMES else "slice"
            raise ValueError(f'{self.training.model} needs patch = "{wanted}" in [recipe]')
        copies = self.training.views_per_patient_max * (1 + self.training.augmentations)
        if copies * math.prod(self.recipe.view_shape[1:]) > BAG_VOXELS_MOST:
            raise ValueError("a patient's views are too large together: lower patch_voxels, views or augmentations")
        if self.training.local is not None:
            self.training.local.check(most=self.privacy.sampling_rate)
        self._check_deltas()
        self._check_analyses()
        return self

    def _check_deltas(self) -> None:
        """Refuse a delta with which one of the study's patients could be shown whole within the promise."""
        patients = self.training.patients_all
        for key, delta in self.deltas().items():
            if delta * patients >= 1:
                raise ValueError(
                    f"{key} must be below 1 over the study's {patients} patients (patients_declared and those held out); "
                    "choose a smaller one"
                )

    def _check_analyses(self) -> None:
        wanted, declared = self.statistics, {variable.name: variable for variable in self.variables}
        numbers = {*wanted.correlation, wanted.regression.outcome, *wanted.regression.predictors}
        numbers |= {one.outcome for one in wanted.groups} | {one.outcome for one in wanted.ancova}
        numbers |= {name for one in wanted.ancova for name in one.covariates}
        factors = {one.factor for one in wanted.groups} | {one.factor for one in wanted.ancova}
        at = [("statistics.descriptive", wanted.descriptive)]
        at += [("statistics.groups", (one.outcome, one.factor)) for one in wanted.groups]
        at += [("statistics.ancova", (one.outcome, one.factor, *one.covariates)) for one in wanted.ancova]
        _check_names(at, declared=declared)
        for name in sorted(numbers | factors):
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
                raise ValueError(f"evaluation.subgroups: {one.variable} is not among the variables")
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

    def deltas(self) -> dict[str, Decimal]:
        """Return every delta that the study declares, under its key."""
        parts = {
            "privacy": self.privacy,
            "statistics.privacy": self.statistics.privacy,
            "evaluation.privacy": self.evaluation.privacy,
        }
        return {f"{key}.delta": part.delta for key, part in parts.items() if part is not None}

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


def _check_names(at: Iterable[tuple[str, Iterable[str]]], *, declared: Container[str]) -> None:
    for key, names in at:
        for name in names:
            if name not in declared:
                raise ValueError(f"{key}: {name} is not among the variables")


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
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not TOML: it is no UTF-8 text.", action="Give the study's .toml file.") from None
    except RecursionError:
        raise ConfigError(f"{path} is not TOML: it is nested too deeply.", action="Give the study's .toml file.") from None
    except tomllib.TOMLDecodeError as error:
        action = "Mend that line." if "(at line " in str(error) else "Mend its end."
        raise ConfigError(f"{path} is not TOML: {error}.", action=action) from None
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
