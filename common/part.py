"""What the parts of a study have in common: frozen, no unknown key, and the types of their values."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from common import formula

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Positive = Annotated[Decimal, Field(gt=0, max_digits=24)]
Probability = Annotated[Decimal, Field(gt=0, le=1, max_digits=24)]
Number = Annotated[Decimal, Field(max_digits=24)]
Level = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+<>=/-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=formula.LENGTH_MOST)]


class Part(BaseModel):
    """A frozen part of a study; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
