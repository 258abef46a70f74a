"""The integer grid, the exact Gram, and the moments read back from it."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from common import fixed_point, moments
from common.errors import ConfigError, DataError, ProtocolError
from common.study import Study


def study_of(bounds: dict[str, tuple[str, str]]) -> Study:
    names = list(bounds)
    return Study.model_validate(
        {
            "name": "moments",
            "title": "Moments",
            "purpose": "test",
            "hospitals_min": 2,
            "patience_s": 60,
            "carrier": "stream",
            "variables": [
                {"name": name, "source": "clinical", "unit": "1", "lower": Decimal(low), "upper": Decimal(high)}
                for name, (low, high) in bounds.items()
            ],
            "statistics": {"correlation": names, "regression": {"outcome": names[0], "predictors": names[1:]}},
            "recipe": {
                "modality": "CT",
                "spacing_mm": "1",
                "denoise": "none",
                "denoise_mm": "0",
                "window_lower": "-1000",
                "window_upper": "400",
                "patch_voxels": 8,
                "edge_channel": False,
            },
            "privacy": {
                "noise_multiplier": "1",
                "clip_norm": "1",
                "sampling_rate": "0.1",
                "delta": "0.00001",
                "colluders": 0,
                "rounds_void_allowed": 0,
            },
            "training": {
                "model": "cnn2d",
                "recipe": "head",
                "prior_sha256": "0" * 64,
                "label": names[0],
                "positive_above": "0",
                "steps": 1,
                "learning_rate": "0.1",
                "optimiser": {"kind": "momentum", "momentum": "0"},
                "schedule": {"kind": "constant"},
                "average": {"kind": "second-half"},
                "views_per_patient_max": 1,
                "augmentations": 0,
                "patients_per_step_max": 10,
                "patients_declared": 10,
                "held_out_fraction": "0.2",
                "score_bins": 8,
                "auc_drop_max": "1",
            },
        }
    )


STUDY = study_of({"age": ("0", "120"), "volume": ("-0.3", "17.25"), "tiny": ("1e-9", "3e-9")})


def table(rows: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    low, high = np.array([0, -0.3, 1e-9]), np.array([120, 17.25, 3e-9])
    values: np.ndarray = np.clip(low + (high - low) * rng.random((rows, 3)), low, high)
    return values


def test_exponents_are_those_of_the_reference() -> None:
    age, volume, tiny = moments.scales(STUDY)
    assert (age.exponent, age.origin) == (52 - 6, 60 * 2**46)  # half width 60, next power 64
    assert volume.exponent == 52 - 4
    assert Fraction(1, 2) < Fraction(1e-9) * Fraction(2) ** (tiny.exponent - 52) <= 1


def test_half_width_that_is_a_power_of_two_uses_all_bits() -> None:
    scale = moments.scales(study_of({"a": ("-8", "8"), "b": ("0", "1")}))[0]
    assert scale.exponent == 49
    z = moments.fixed_point(np.array([[8.0, 0.0], [-8.0, 1.0]]), study=study_of({"a": ("-8", "8"), "b": ("0", "1")}))
    assert z[:, 0].tolist() == [2**52, -(2**52)]


def test_each_value_is_the_nearest_grid_point_by_rational_arithmetic() -> None:
    x = table(200)
    z = moments.fixed_point(x, study=STUDY)
    for j, scale in enumerate(moments.scales(STUDY)):
        expected = [round(Fraction(v) * Fraction(2) ** scale.exponent) - scale.origin for v in x[:, j].tolist()]
        assert z[:, j].tolist() == expected


def test_whole_numbers_and_halves_lose_nothing() -> None:
    study = study_of({"age": ("0", "120"), "grade": ("1", "5")})
    x = np.array([[63.0, 3.5], [0.0, 1.0], [120.0, 5.0]])
    held = moments.from_total(moments.gram(moments.fixed_point(x, study=study)).tolist(), study=study)
    assert held.mean("age") == 61
    assert held.scatter("age", "grade") == sum(
        (a - 61) * (g - Fraction(19, 6)) for a, g in ((63, Fraction(7, 2)), (0, 1), (120, 5))
    )


def test_gram_equals_products_of_python_integers() -> None:
    rng = np.random.default_rng(1)
    z = rng.integers(-(2**52) - 1, 2**52 + 1, (moments.BLOCK_ROWS + 3, 3), endpoint=True)
    columns = [[1] * len(z), *z.T.tolist()]
    expected = [sum(a * b for a, b in zip(columns[i], columns[j], strict=True)) for i in range(4) for j in range(i, 4)]
    assert moments.gram(z).tolist() == expected


def test_gram_of_no_rows_is_zero_and_has_its_size() -> None:
    assert moments.gram(np.zeros((0, 3), dtype=np.int64)).tolist() == [0] * moments.size(3)


def test_entries_are_python_integers() -> None:
    assert {type(v) for v in moments.gram(np.full((2, 2), 2**52, dtype=np.int64)).tolist()} == {int}


def test_moments_equal_rational_moments_of_the_table() -> None:
    x = table(50)
    held = moments.from_total(moments.gram(moments.fixed_point(x, study=STUDY)).tolist(), study=STUDY)
    for i, name in enumerate(STUDY.columns()):
        assert float(held.mean(name)) == pytest.approx(float(np.mean(x[:, i])), rel=1e-14)
        for j, other in enumerate(STUDY.columns()):
            centred = (x[:, i] - x[:, i].mean()) @ (x[:, j] - x[:, j].mean())
            scale = np.sqrt(x[:, i].var() * x[:, j].var()) * len(x)
            assert float(held.scatter(name, other)) == pytest.approx(centred, abs=1e-13 * scale)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 120.0000001, -0.1, 1e300])
def test_value_missing_or_outside_its_bounds_is_refused_by_column_and_not_shown(bad: float) -> None:
    x = table(5)
    x[2, 0] = bad
    with pytest.raises(DataError, match="Column age") as refused:
        moments.fixed_point(x, study=STUDY)
    assert str(bad) not in str(refused.value)


def test_table_of_another_width_is_refused() -> None:
    with pytest.raises(DataError):
        moments.fixed_point(np.zeros((3, 2)), study=STUDY)


def test_bounds_that_float64_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match="bounds of b"):
        moments.scales(study_of({"a": ("0", "1"), "b": ("1000000000000000000000", "1000000000000000000001")}))


def test_integers_beyond_the_grid_are_refused() -> None:
    with pytest.raises(DataError):
        moments.gram(np.array([[2**53]]))
    with pytest.raises(DataError):
        moments.gram(np.array([[-(2**63)]]))
    with pytest.raises(TypeError):
        moments.gram(np.array([[1.5]]))


def test_more_rows_than_the_ring_holds_are_refused() -> None:
    with pytest.raises(DataError, match="rows"):
        moments.gram(np.broadcast_to(np.int64(0), (fixed_point.ROWS_MOST + 1, 1)))
    total = moments.gram(moments.fixed_point(table(4), study=STUDY)).tolist()
    total[0] = fixed_point.ROWS_MOST + 1
    with pytest.raises(DataError, match="rows"):
        moments.from_total(total, study=STUDY)


def test_no_row_at_all_has_no_moments() -> None:
    with pytest.raises(DataError, match="No patient"):
        moments.from_total([0] * moments.size(3), study=STUDY)


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, -1), (4, -1), (4, 2**127 - 1), (1, 2**60), (5, 2**115)],
    ids=["rows below zero", "square below zero", "square too large", "sum too large", "correlation above one"],
)
def test_sum_that_is_no_gram_is_refused(position: int, value: int) -> None:
    total = moments.gram(moments.fixed_point(table(9), study=STUDY)).tolist()
    total[position] = value
    with pytest.raises(ProtocolError, match="not a Gram"):
        moments.from_total(total, study=STUDY)


@pytest.mark.parametrize("length", [0, 1, 9, 11])
def test_sum_of_the_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match="length"):
        moments.from_total([1] * length, study=STUDY)


def test_unknown_column_is_refused() -> None:
    held = moments.from_total(moments.gram(moments.fixed_point(table(9), study=STUDY)).tolist(), study=STUDY)
    with pytest.raises(ConfigError):
        held.mean("nothing")
