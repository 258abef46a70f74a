"""A variable of the study's dictionary: where its values come from, its unit, its levels or bounds."""

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common import codes, terms
from common.errors import ConfigError
from common.part import Level, Name, Number, Part

FHIR = r"^((patient:(gender|birth-year)|(observation|condition):[^|\s]{1,128}\|[^|\s]{1,64}))?$"


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
    unit: Annotated[str, Field(max_length=32, pattern=r"^\P{C}*$")]  # printed in terminals: nothing that steers one
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
