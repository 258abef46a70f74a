"""A whole study in memory: what comes out is what the pooled table gives, and nothing else came out."""

import pytest

from tests import federation


def test_a_study_runs_from_dicom_to_result(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)
    result = one.run(wanted)
    assert result["hospitals"] == list(federation.HOSPITALS)
    assert result["patients"] == 4 * federation.PATIENTS
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 4
    print(result["training"], result["ols"], result["seconds"])
