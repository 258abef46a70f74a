"""Both rhythms of training side by side before anything is spent: epsilon, noise, bytes, time; and what a dropout costs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from common import phases
from common.errors import ConfigError
from common.mechanism import LOCAL_STEPS_MOST, GaussianShare
from common.rhythm import LocalRhythm
from common.study import Study
from server import plan_noise, scorable, spent

__all__ = ["LOCAL_STEPS", "Link", "compare", "show"]

LOCAL_STEPS: Final = 10  # of the other rhythm, where the study has none
FRAME_BYTES: Final = 4096  # heads, signatures and acknowledgements of one sum, rounded up
WORD_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What is known of the slowest hospital: its link, or how long a sum took there, and how long a step computes.

    `round_s`, measured (`seconds.per_secure_sum` of an earlier result, which holds one step's computing), goes before the link.
    Where `step_s` is not known, times are told without computing.
    Raises ConfigError on a number that is not positive.
    """

    mbit_per_s: float | None = None
    round_s: float | None = None
    step_s: float | None = None

    def __post_init__(self) -> None:
        given = [number for number in (self.mbit_per_s, self.round_s) if number is not None]
        if any(not (math.isfinite(number) and number > 0) for number in given) or not 0 <= (self.step_s or 0) < math.inf:
            raise ConfigError("A speed or a time is not positive.", action="Give seconds, or megabits per second, above 0.")


def compare(study: Study, *, hospitals: int, link: Link, local_steps: int = LOCAL_STEPS) -> dict[str, Any]:
    """Return how training would go in either rhythm over `hospitals`, unseen ones included, as JSON can hold it.

    Both have as many private steps at each hospital. Keys: rhythms (a row each: rhythm, chosen, sums, steps, epsilon and
    epsilon_rdp at delta, epsilon_with_void_rounds, noise_std of each step's mean gradient per parameter, noise_std_of_update of
    what one sum opens before the optimiser, rounding_slack, numbers, bytes_up and bytes_down per hospital over all sums,
    seconds or None where neither link nor round_s is known, and computing_counted, whether seconds hold every step's computing)
    and dropouts. Beside a study without a local rhythm, one of `local_steps` at the study's learning rate is shown. A rhythm
    that is not the study's and cannot be made has a row of rhythm, chosen, and why it is `refused`.
    Raises ConfigError where the noise cannot be made, the models could not be scored, or `local_steps` is out of range.
    """
    scorable.check(study)
    hospitals -= len(study.evaluation.unseen)
    if not 2 <= local_steps <= LOCAL_STEPS_MOST:
        raise ConfigError(f"A local rhythm has 2 to {LOCAL_STEPS_MOST} steps.", action="Give another --local-steps.")
    local = study.training.local
    other = local or LocalRhythm(local_steps=local_steps, learning_rate=study.training.learning_rate, update_norm=Decimal(1))
    return {
        "rhythms": [
            _row(study, rhythm=None, steps=1 if local is None else local.local_steps, hospitals=hospitals, link=link),
            _row(study, rhythm=other, steps=1 if local is None else local.local_steps, hospitals=hospitals, link=link),
        ],
        "dropouts": _dropouts(study, hospitals=hospitals),
    }


def _row(study: Study, *, rhythm: LocalRhythm | None, steps: int, hospitals: int, link: Link) -> dict[str, Any]:
    """Return one rhythm; `steps` are the private steps behind one sum of the study as it is."""
    each = 1 if rhythm is None else rhythm.local_steps
    planned = [(_size(study, phase), phase.training.steps * steps) for phase in phases.phases(study.training)]
    sums = [(size, -(-count // each)) for size, count in planned]
    many, voids, largest = sum(count for _, count in sums), study.privacy.rounds_void_allowed, max(size for size, _ in sums)
    which = {
        "rhythm": "distributed" if rhythm is None else "local",
        "chosen": (rhythm is None) == (study.training.local is None),
    }
    try:
        one = _mechanism(study, rhythm=rhythm, size=largest, hospitals=hospitals)
    except ConfigError as error:
        if which["chosen"]:
            raise
        return {**which, "refused": error.what}
    batch = float(study.privacy.sampling_rate) * study.training.patients_declared
    deviation = one.noise_deviation / batch
    up = sum(count * (WORD_BYTES * (size + (rhythm is not None)) + FRAME_BYTES) for size, count in sums)
    down = many * (WORD_BYTES * _model_size(study) + FRAME_BYTES)
    return {
        **which,
        "sums": many,
        "steps": many * each,
        **spent.epsilons([one] * many, delta=study.privacy.delta),
        "epsilon_with_void_rounds": spent.epsilons([one] * (many + voids), delta=study.privacy.delta),
        "noise_std": deviation,
        "noise_std_of_update": deviation if rhythm is None else deviation * float(rhythm.learning_rate) * math.sqrt(each),
        "rounding_slack": one.rounding_slack,
        "numbers": largest,
        "bytes_up": up,
        "bytes_down": down,
        **_time(link, sums=many, steps=many * each, size_bytes=up + down),
    }


def _time(link: Link, *, sums: int, steps: int, size_bytes: int) -> dict[str, Any]:
    """Return the seconds of all sums, and whether all computing is in them."""
    if link.round_s is not None:
        carried, left = sums * link.round_s, steps - sums
    elif link.mbit_per_s is not None:
        carried, left = 8e-6 * size_bytes / link.mbit_per_s, steps
    else:
        return {"seconds": None, "computing_counted": False}
    return {"seconds": carried + left * (link.step_s or 0), "computing_counted": link.step_s is not None or left == 0}


def _dropouts(study: Study, *, hospitals: int) -> dict[str, Any]:
    """Return how many hospitals may be missing, and what is faced then: shares are made anew for every round's hospitals.

    A round that a hospital misses is void and charged at those that answered; the next is announced without it.
    """
    rosters = []
    for present in range(hospitals, study.hospitals_min - 1, -1):
        if present - study.privacy.colluders >= 2:
            one = _mechanism(study, rhythm=study.training.local, size=1, hospitals=present)
            faced = one.grid_step * 2.0**one.share_bits * math.sqrt(one.shares) / one.sensitivity
            opened = one.noise_deviation / one.sensitivity
            rosters.append({"hospitals": present, "noise_multiplier_faced": faced, "noise_multiplier_opened": opened})
    return {
        "away_most": len(rosters) - 1,
        "void_rounds_allowed": study.privacy.rounds_void_allowed,
        "rosters": rosters,
    }


def _mechanism(study: Study, *, rhythm: LocalRhythm | None, size: int, hospitals: int) -> GaussianShare:
    as_planned = study.model_copy(update={"training": study.training.model_copy(update={"local": rhythm})})
    return plan_noise.mechanism(as_planned, task="train", hospitals=hospitals, dimension=size + (rhythm is not None))


def _size(study: Study, phase: phases.Phase) -> int:
    from common import model  # noqa: PLC0415  (torch takes seconds)

    recipe = study.recipe
    return model.trainable_size(phase.training, channels=recipe.channels, patch_voxels=recipe.patch_voxels)


def _model_size(study: Study) -> int:
    whole = study.training.model_copy(update={"recipe": "full", "finetune": None})
    return _size(study, phases.Phase(training=whole, before=0))


def _told(row: dict[str, Any]) -> str:
    if row["seconds"] is None:
        return "give --link-mbit-s or --round-s"
    return _duration(row["seconds"]) + ("" if row["computing_counted"] else ", without computing; give --step-s")


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


_CELLS: Final[tuple[tuple[str, Callable[[dict[str, Any]], str]], ...]] = (
    ("secure sums", lambda row: str(row["sums"])),
    ("private steps at each hospital", lambda row: str(row["steps"])),
    ("epsilon", lambda row: str(row["epsilon"])),
    ("epsilon with all void rounds", lambda row: str(row["epsilon_with_void_rounds"]["epsilon"])),
    ("noise of a step's mean gradient, a parameter", lambda row: f"{row['noise_std']:.2g}"),
    ("noise of the mean update of a sum, a parameter", lambda row: f"{row['noise_std_of_update']:.2g}"),
    ("rounding of a sum, of the sensitivity", lambda row: f"{100 * row['rounding_slack']:.2g} %"),
    ("MB up and down, a hospital", lambda row: f"{(row['bytes_up'] + row['bytes_down']) / 1e6:.3g}"),
    ("time", _told),
)


def show(compared: dict[str, Any], *, console: Console) -> None:
    """Print both rhythms and what dropouts cost."""
    table = Table(title="Training in either rhythm; the study's is marked")
    for name in ("", *(f"{row['rhythm']}{' *' if row['chosen'] else ''}" for row in compared["rhythms"])):
        table.add_column(name)
    for says, cell in _CELLS:
        table.add_row(says, *("cannot be made" if "refused" in row else cell(row) for row in compared["rhythms"]))
    console.print(table)
    for row in compared["rhythms"]:
        if "refused" in row:
            console.print(f"The {row['rhythm']} rhythm, which is not the study's: {row['refused']}", soft_wrap=True)
    dropouts = compared["dropouts"]
    fewest = dropouts["rosters"][-1]
    console.print(
        f"Dropouts: the noise survives all but {fewest['hospitals']} hospitals away, {dropouts['away_most']} at once: shares "
        f"are made anew for the hospitals of each round, and noise multiplier {fewest['noise_multiplier_faced']:.4g} is faced. "
        f"A round that a hospital misses is void and charged; {dropouts['void_rounds_allowed']} void rounds are planned for.",
        soft_wrap=True,
    )
