"""How many hospitals one takes for honest: all of the round but the most that any part of its study assumes to collude."""

from decimal import Decimal

import pytest

from client import pipeline
from common import announcement
from tests import cohorts
from tests.federation import HOSPITALS

NOISE = {"noise_multiplier": Decimal(4), "clip_norm": Decimal(2), "delta": Decimal("1e-6"), "patients_max": 1000}


def seat(*, training, gram):
    noisy = {} if gram is None else {"privacy": {**NOISE, "colluders": gram, "rounds_void_allowed": 1}}
    wanted = cohorts.study(privacy={"colluders": training}, statistics=noisy)
    announced = announcement.Announcement(
        run="r",
        study=wanted.hash(),
        roster="r",
        round=1,
        hospitals=HOSPITALS,
        task="query",
        index=1,
        dimension=1,
        blob_sha256="0" * 64,
        mechanism=announcement.mechanism_for(wanted, task="evaluate", hospitals=4, dimension=1),
    )
    return pipeline.seat(announced, study=wanted, me="hosp-c", shows=False)


@pytest.mark.parametrize(("training", "gram", "honest"), [(0, None, 4), (1, None, 3), (0, 2, 2), (2, 0, 2), (1, 1, 3)])
def test_the_more_careful_part_of_the_study_says_how_many_collude(training, gram, honest):
    found = seat(training=training, gram=gram)
    assert (found.at, found.of, found.honest) == (2, 4, honest)
