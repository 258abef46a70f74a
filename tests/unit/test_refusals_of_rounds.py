"""What a hospital refuses because of what a round asks: its number, context, length, ring, scale, parameters and task."""

import numpy as np
import pytest

from client.mask import mask
from common import announcement as announcements
from common import wire
from common.contribution import Contribution
from common.errors import BadEnvelope, InternalError, OutsidePolicy, RosterNotApproved, RoundRepeated, TooFewPatients
from common.ledger.receipt import Receipt
from common.mechanism import Exact
from tests import refusing
from tests.federation import HOSPITALS, PATIENTS
from tests.refusing import GRAM, ME, STUDY, accepted, again, announced, coordinator, envelope, refused, trained


@pytest.fixture(scope="module")
def shared(tmp_path_factory, phantom_scans, cohort_cache):
    with refusing.federated(tmp_path_factory.mktemp("refusals"), scans=phantom_scans, cache=cohort_cache) as one:
        yield one


@pytest.fixture
def hospitals(shared, monkeypatch):
    return refusing.watched(shared, monkeypatch)


def test_round_repeated(hospitals):
    rounds = coordinator(hospitals[0])
    accepted(hospitals, envelope(rounds, announced(rounds, 2)))
    other = announced(rounds, 2, index=1)
    refused(hospitals, envelope(rounds, other), RoundRepeated, "E-ROUND")


def test_round_stepped_back(hospitals):
    rounds = coordinator(hospitals[0])
    accepted(hospitals, envelope(rounds, announced(rounds, 3)))
    for number in (2, 1):
        refused(hospitals, envelope(rounds, announced(rounds, number)), RoundRepeated, "E-ROUND")


def test_second_different_upload_in_a_round(hospitals):
    """The vault gives one upload a round: the same request gets the same bytes, any other about that round a refusal."""
    rounds = coordinator(hospitals[0])
    request = envelope(rounds, announced(rounds))
    first = accepted(hospitals, request)
    assert accepted(hospitals, request) == first
    other = again(request, key=rounds.key, body={**wire.peek(request).body, "outcomes": {"9": "void"}})
    refused(hospitals, other, RoundRepeated, "E-ROUND")
    refused(hospitals, envelope(rounds, announced(rounds, hospitals=HOSPITALS[:3])), RoundRepeated, "E-ROUND")
    assert accepted(hospitals, request) == first


def test_context_mismatch_at_the_hospital(hospitals):
    """An announcement that is not about this run or these bytes; set-up over other bundles: test_refusals_of_identities.py."""
    rounds = coordinator(hospitals[0])
    for change in ({"run": "another"}, {"blob_sha256": "0" * 64}):
        refused(hospitals, envelope(rounds, announced(rounds, **change)), BadEnvelope, "E-ENVELOPE")
    refused(hospitals, envelope(rounds, announced(rounds, study="0" * 64)), RosterNotApproved, "E-REFUSED-ROSTER")


@pytest.mark.parametrize("dimension", [1, GRAM - 1, GRAM + 1, 1 << 28])
def test_wrong_length(hospitals, dimension):
    rounds = coordinator(hospitals[0])
    wrong = announced(rounds, dimension=dimension)
    refused(hospitals, envelope(rounds, wrong), OutsidePolicy, "E-REFUSED-PARAMETERS")


def test_a_minimum_of_patients_that_was_raised_holds_from_the_next_round_on(make_federation, monkeypatch):
    one = make_federation(patients_min=1)
    one.approve(STUDY)
    one, raised = refusing.watched(one, monkeypatch)
    rounds = coordinator(one)
    home = one.vaults[ME].home
    text = home.site_file.read_text()
    home.site_file.write_text(text.replace("patients_min = 1 ", f"patients_min = {PATIENTS + 1} "))
    assert wire.peek(one.vaults[ME].answer(envelope(rounds, trained(rounds)))).body == {"code": "E-REFUSED"}
    assert [type(error) for error in raised[ME]] == [TooFewPatients]


def test_wrong_dtype():
    """Under the wall: a clipped sum that is not float64 does not get noise or a mask."""
    mechanism = announcements.mechanism_for(STUDY, task="train", hospitals=4, dimension=3)
    receipt = Receipt(reservation="r/1/a", study=STUDY.hash(), mechanism=mechanism, sequence=1)
    for values in (np.zeros(3, np.int64), np.zeros(3, object), np.zeros(4)):
        with pytest.raises(InternalError, match="type or length") as caught:
            mask(Contribution(values=values, mechanism=mechanism), receipt=receipt, me="a", seeds={"b": b"s" * 32})
        assert caught.value.code == "E-INTERNAL"


@pytest.mark.parametrize("bits", [32, 64])
def test_wrong_ring(hospitals, bits):
    rounds = coordinator(hospitals[0])
    wrong = announced(rounds, mechanism=Exact(statistic="gram", ring_bits=bits))
    refused(hospitals, envelope(rounds, wrong), OutsidePolicy, "E-REFUSED-PARAMETERS")
    refused(hospitals, envelope(rounds, trained(rounds, ring_bits=2 * bits)), OutsidePolicy, "E-REFUSED-PARAMETERS")


@pytest.mark.parametrize(
    "change",
    [{"share_bits": 8}, {"share_bits": 24}, {"clip_norm": 4}, {"dimension": 12}, {"patients_per_step_max": 65}],
    ids=str,
)
def test_wrong_scale(hospitals, change):
    """Scale, clip and room are the mechanism's; it must be the one that the study implies."""
    rounds = coordinator(hospitals[0])
    change = {key: STUDY.privacy.clip_norm * value if key == "clip_norm" else value for key, value in change.items()}
    assert trained(rounds, **change) != trained(rounds)
    refused(hospitals, envelope(rounds, trained(rounds, **change)), OutsidePolicy, "E-REFUSED-PARAMETERS")


@pytest.mark.parametrize(
    "change", [{"noise_multiplier": "0.5"}, {"sampling_rate": "0.5"}, {"colluders": 0}, {"hospitals": 5}], ids=str
)
def test_parameters_outside_the_policy(hospitals, change):
    rounds = coordinator(hospitals[0])
    wanted = trained(rounds).plain()
    outside = {**wanted, "mechanism": {**wanted["mechanism"], **change}}
    refused(hospitals, envelope(rounds, outside), OutsidePolicy, "E-REFUSED-PARAMETERS")


def test_parameters_outside_the_policy_exact_in_the_place_of_noise(hospitals):
    rounds = coordinator(hospitals[0])
    wanted = announced(rounds, task="train", index=1, dimension=13)
    refused(hospitals, envelope(rounds, wanted), OutsidePolicy, "E-REFUSED-PARAMETERS")


@pytest.mark.parametrize("task", ["", "Gram", "plain", "train ", None, 7, ["gram"]], ids=repr)
def test_unknown_task(hospitals, task):
    rounds = coordinator(hospitals[0])
    wanted = {**announced(rounds).plain(), "task": task}
    refused(hospitals, envelope(rounds, wanted), BadEnvelope, "E-ENVELOPE")
