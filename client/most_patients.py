"""More training patients than a private step was announced for are refused: its bounds hold for no more."""

from common.errors import TooManyPatients
from common.mechanism import SampledStep


def check(patients: int, *, mechanism: SampledStep) -> None:
    """Raise TooManyPatients above the mechanism's patients_per_step_max, whoever of them would be drawn."""
    if patients > mechanism.patients_per_step_max:
        raise TooManyPatients(
            "This hospital has more training patients than the study allows in a step.",
            action="Raise patients_per_step_max in a new version of the study.",
        )
