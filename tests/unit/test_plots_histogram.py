"""A histogram is drawn with areas as patients, whatever the bins; text stays text."""

import re

from server.plots_histogram import histogram

QUARTERS = [{"probability": 0.25, "estimate": 3.0}, {"probability": 0.5, "estimate": None}]


def bars(drawn: str) -> list[tuple[float, float]]:
    found = re.findall(r'<rect x="[^"]*" y="[^"]*" width="([^"]*)" height="([^"]*)"', drawn)
    return [(float(width), float(height)) for width, height in found]


def test_areas_are_patients_in_bins_of_any_width() -> None:
    areas = [
        width * height for width, height in bars(histogram([40, 40, 0], grid=[0, 1, 5, 6], quantiles=[], name="a", key="k"))
    ]
    assert abs(areas[0] / areas[1] - 1) < 0.02
    assert areas[2] == 0


def test_quantiles_without_an_estimate_are_not_drawn_and_text_stays_text() -> None:
    drawn = histogram([5, 7], grid=[0, 4, 8], quantiles=QUARTERS, name="<script>", key="k")
    assert drawn.count("stroke-dasharray") == 1
    assert "<script>" not in drawn
    assert "12 patients in 2 bins" in drawn


def test_no_patient_gives_an_empty_figure() -> None:
    drawn = histogram([0, 0], grid=[0, 1, 2], quantiles=[], name="a", key="k")
    assert [height for _, height in bars(drawn)] == [0, 0]
