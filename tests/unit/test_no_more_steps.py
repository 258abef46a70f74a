"""A hospital makes the steps that its study declares, and so many more as may be void, in a run; whatever else is asked."""

import pytest

from common import model
from common.errors import HospitalMissing
from tests import federation
from tests.asking import set_up
from tests.written import entries, refusals


@pytest.fixture
def coordinator(make_federation):
    """A coordinator of a study of two steps and one void round, that asks for the step it likes."""
    one, wanted = make_federation(), federation.study(training={"steps": 2}, privacy={"rounds_void_allowed": 1})
    one.approve(wanted)
    made = set_up(one, wanted, "greedy")
    blob = model.initial(wanted.training, channels=1, patch_voxels=wanted.recipe.patch_voxels)

    def ask(step):
        return made.secure_sum(task="train", index=step, dimension=13, blob=blob, attempts=1)

    return one, ask


def test_no_run_has_more_steps_than_its_study_and_its_void_rounds(coordinator):
    one, ask = coordinator
    for step in (1, 2, 2):
        ask(step)
    with pytest.raises(HospitalMissing, match="E-REFUSED-PARAMETERS"):
        ask(2)
    assert refusals(one) == ["E-REFUSED-PARAMETERS"]
    assert len(entries(one, kind="reserve")) == 3, "what is refused costs nothing"


@pytest.mark.parametrize("step", [0, 3])
def test_a_step_that_the_study_does_not_have_is_refused(coordinator, step):
    one, ask = coordinator
    with pytest.raises(HospitalMissing, match="E-REFUSED-PARAMETERS"):
        ask(step)
    assert not entries(one, kind="reserve")
